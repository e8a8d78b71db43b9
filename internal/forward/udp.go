package forward

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"
)

// A DNS exchange is over in milliseconds; what holds its socket longer is
// waste. Other flows follow RFC 4787 section 4.3: at least two minutes.
const (
	dnsPort     = 53
	dnsIdle     = 10 * time.Second
	udpIdle     = 2 * time.Minute
	maxDatagram = 65535
)

// UDP relays the datagrams of one flow. The backend socket is connected, so
// that only the target can answer into it.
func (f *Forwarder) UDP(client, target netip.AddrPort) (serve func(net.Conn), ok bool) {
	backend, err := f.dial("udp", target)
	if err != nil {
		return nil, false
	}
	idle := udpIdle
	if target.Port() == dnsPort {
		idle = dnsIdle
	}
	return func(c net.Conn) { f.relayDatagrams(c, backend, idle) }, true
}

func (f *Forwarder) relayDatagrams(client, backend net.Conn, idle time.Duration) {
	fl := &flow{protocol: "udp", client: client, backend: backend}
	done, ok := f.open(fl)
	if !ok {
		fl.abort()
		return
	}
	defer done()
	var last atomic.Int64
	last.Store(time.Now().UnixNano())
	up := make(chan struct{})
	go func() {
		defer close(up)
		copyDatagrams(backend, client, idle, &last, func(n int) { f.metrics.toVPC["udp"].Add(float64(n)) })
		backend.Close()
	}()
	copyDatagrams(client, backend, idle, &last, func(n int) { f.metrics.toTailnet["udp"].Add(float64(n)) })
	client.Close()
	<-up
}

// copyDatagrams copies until src fails or neither direction moved for idle.
// A datagram that dst refuses is lost, as datagrams are; the flow lives on.
func copyDatagrams(dst, src net.Conn, idle time.Duration, last *atomic.Int64, count func(int)) {
	buf := make([]byte, maxDatagram)
	for {
		quiet := time.Since(time.Unix(0, last.Load()))
		if quiet >= idle {
			return
		}
		if err := src.SetReadDeadline(time.Now().Add(idle - quiet)); err != nil {
			return
		}
		n, err := src.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) || isTimeout(err) {
			continue
		}
		if err != nil {
			return
		}
		last.Store(time.Now().UnixNano())
		if _, err := dst.Write(buf[:n]); err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		count(n)
	}
}

// isTimeout knows the userspace stack's own timeout error, which is not
// os.ErrDeadlineExceeded.
func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
