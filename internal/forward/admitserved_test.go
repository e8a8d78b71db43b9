package forward

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

// TestServedPortsAreAdmitted: Admit decides about a served port by the address that is dialed for it, and about one whose
// address is unknown by none.
func TestServedPortsAreAdmitted(t *testing.T) {
	port := serveTCP(t, func(c *net.TCPConn) { c.Write([]byte("served")); c.Close() })
	served, unknown := netip.MustParseAddrPort("100.100.1.1:443"), netip.MustParseAddrPort("100.100.1.1:444")
	to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
	a := new(admission)
	c := newClient(t, func(cfg *Config) {
		a.configure(cfg)
		cfg.Served = func(_ Protocol, target netip.AddrPort) (netip.AddrPort, bool) {
			switch target {
			case served:
				return to, true
			case unknown:
				return netip.AddrPort{}, true
			}
			return netip.AddrPort{}, false
		}
	})
	conn := c.mustDialTCP(served)
	conn.SetDeadline(time.Now().Add(patience))
	if n, err := conn.Read(make([]byte, 10)); err != nil || n != 6 {
		t.Errorf("read %d bytes, %v", n, err)
	}
	conn.Close()
	a.refuse.Store(true)
	for _, target := range []netip.AddrPort{served, unknown} {
		if conn, err := c.dialTCP(target); err == nil {
			conn.Close()
			t.Errorf("connected to %v, which is refused", target)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.asked) < 3 || a.asked[0] != to || a.asked[1] != to || a.asked[len(a.asked)-1] != (netip.AddrPort{}) {
		t.Errorf("asked about %v", a.asked)
	}
}
