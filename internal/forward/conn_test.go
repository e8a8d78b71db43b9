package forward

import (
	"net"
	"testing"

	"golang.org/x/net/nettest"
)

// TestConn: a connection from a client through the router to a target behaves like any other
// connection, in both families.
func TestConn(t *testing.T) {
	for i, family := range []string{"IPv4", "IPv6"} {
		t.Run(family, func(t *testing.T) {
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				c := newClient(t, nil)
				accepted := make(chan *net.TCPConn)
				port := serveTCP(t, func(conn *net.TCPConn) { accepted <- conn })
				c1 = c.mustDialTCP(targets(port)[i])
				c2 = <-accepted
				return c1, c2, func() { c1.Close(); c2.Close() }, nil
			})
		})
	}
}
