package egress

import (
	"io"
	"net"
)

// relayBuffer is the memory of each direction of a connection, in bytes.
const relayBuffer = 16 << 10

// relay moves bytes between a program and a flow until both directions have ended, and closes both. An end of one
// stream is passed on, and the other direction continues. An error ends both; the program gets a reset.
func relay(c *client, f *flow) {
	failed := make(chan bool, 2)
	copyTo := func(dst, src net.Conn, end func() error) {
		_, err := io.CopyBuffer(writerOnly{dst}, readerOnly{src}, make([]byte, relayBuffer))
		if err == nil {
			err = end()
		}
		failed <- err != nil
	}
	go copyTo(f, c, f.CloseWrite)
	go copyTo(c, f, c.CloseWrite)
	for range 2 {
		if <-failed { // which wakes the other direction
			f.abort()
			c.reset()
		}
	}
	f.Close()
	c.Close()
}

// readerOnly and writerOnly keep [io.Copy] from methods of the connections below, which would count nothing.
type (
	readerOnly struct{ io.Reader }
	writerOnly struct{ io.Writer }
)
