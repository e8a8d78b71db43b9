package forward

import "time"

// Keep-alive detects a server or client that disappeared after 60 s + 4 x 15 s. The 2 h default
// of operating systems leaves databases with dead clients. The first of these times is the
// default of [Config.KeepAlive].
const (
	keepAliveIdle     = 60 * time.Second
	keepAliveInterval = 15 * time.Second
	keepAliveCount    = 4
)
