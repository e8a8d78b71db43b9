package forward

import (
	"io"
	"net"
	"net/netip"

	"github.com/prometheus/client_golang/prometheus"
)

// TCP dials target before the client's handshake completes, so that a refused
// port is a reset at once and not a connection that dies. ok is false when the
// client should be reset.
func (f *Forwarder) TCP(client, target netip.AddrPort) (serve func(net.Conn), ok bool) {
	backend, err := f.dial("tcp", target)
	if err != nil {
		return nil, false
	}
	return func(c net.Conn) { f.relay(c, backend) }, true
}

// relay copies both ways until both sides have said that they are done. Each
// side's end is passed on as an end of that direction alone (half-close).
func (f *Forwarder) relay(client, backend net.Conn) {
	fl := &flow{protocol: "tcp", client: client, backend: backend}
	done, ok := f.open(fl)
	if !ok {
		fl.abort()
		return
	}
	defer done()
	up := make(chan struct{})
	go func() {
		defer close(up)
		copyHalf(fl, backend, client, f.metrics.toVPC["tcp"])
	}()
	copyHalf(fl, client, backend, f.metrics.toTailnet["tcp"])
	<-up
	backend.Close()
	client.Close()
}

// copyHalf copies one direction and passes its end on. After an error the
// other direction cannot go on either, and may be waiting in a read.
func copyHalf(fl *flow, dst, src net.Conn, bytes prometheus.Counter) {
	if _, err := io.Copy(counted{dst, bytes}, src); err != nil {
		fl.abort()
		return
	}
	if c, ok := dst.(interface{ CloseWrite() error }); ok {
		c.CloseWrite()
		return
	}
	dst.Close()
}

// counted counts what is written while it is written, not at the end, since a
// connection may live for days.
type counted struct {
	io.Writer
	bytes prometheus.Counter
}

func (c counted) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.bytes.Add(float64(n))
	return n, err
}
