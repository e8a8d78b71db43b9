package forward

import "time"

// Keep-alive detects a target that disappeared after 60 s + 4 x 15 s. A client may be a computer
// that sleeps: it keeps its idle connections for 2 h, as RFC 9293, section 3.8.4, asks, and with
// the same probes after that. The first of these times are the defaults of
// [Config.TargetKeepAlive] and [Config.KeepAlive].
const (
	targetKeepAlive   = 60 * time.Second
	clientKeepAlive   = 2 * time.Hour
	keepAliveInterval = 15 * time.Second
	keepAliveCount    = 4
)
