package forward

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"

	"subnetrouter/internal/packet"
)

// TestServedPort connects to a served port of the node's own addresses: the deny list does not apply to it,
// but the access rules do, also later. Other ports, protocols and addresses are denied as ever.
func TestServedPort(t *testing.T) {
	var (
		closed  atomic.Bool // by the access rules
		unknown atomic.Bool // the target's name has no address
	)
	port := serveTCP(t, func(conn *net.TCPConn) { io.Copy(conn, conn); conn.Close() })
	c := newClient(t, func(cfg *Config) {
		cfg.Deny = func(netip.AddrPort) bool { return true }
		cfg.Allow = func(uint8, netip.Addr, netip.AddrPort) bool { return !closed.Load() }
		cfg.Served = func(protocol Protocol, target netip.AddrPort) (netip.AddrPort, bool) {
			if protocol != TCP || target.Port() != 443 || target.Addr() == netip.MustParseAddr("10.0.3.4") {
				return netip.AddrPort{}, false
			}
			if unknown.Load() {
				return netip.AddrPort{}, true
			}
			return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port), true
		}
	})
	own := []netip.AddrPort{netip.MustParseAddrPort("100.64.0.9:443"), netip.MustParseAddrPort("[fd7a:115c:a1e0::9]:443")}
	for _, to := range own {
		conn := c.mustDialTCP(to)
		mustEcho(t, conn)
		for _, raw := range [][]byte{
			wholePacket(netip.AddrPortFrom([]netip.Addr{client4, client6}[familyOf(to.Addr())], 1000), to, 10),
			tcpSegment(netip.AddrPortFrom([]netip.Addr{client4, client6}[familyOf(to.Addr())], 1000), netip.AddrPortFrom(to.Addr(), 444), 1, byte(packet.SYN), 1, nil),
		} {
			before := counterValue(c.f.rules.denied)
			c.f.Deliver([][]byte{raw}, 0)
			if got := counterValue(c.f.rules.denied) - before; got != 1 {
				t.Errorf("%v: %d packets were denied, want 1", to, got)
			}
		}
		closed.Store(true)
		c.f.Recheck()
		if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%v: read after the rules changed: %v, want a reset", to, err)
		}
		closed.Store(false)
	}
	if _, err := c.dialTCP(netip.MustParseAddrPort("10.0.3.4:443")); err == nil {
		t.Error("a connection to an address that is not the node's succeeded")
	}
	unknown.Store(true)
	if _, err := c.dialTCP(own[0]); err == nil {
		t.Error("a connection to a target without an address succeeded")
	}
	c.noFlows()
}
