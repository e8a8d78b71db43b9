package forward

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"subnetrouter/internal/testwait"
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

// TestFront: all rules and the preface are for the target of a served port, while its front is dialed.
func TestFront(t *testing.T) {
	port := serveTCP(t, func(c *net.TCPConn) { io.Copy(c, c); c.Close() })
	front := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
	served, target := netip.MustParseAddrPort("100.100.1.1:443"), netip.MustParseAddrPort("10.0.3.4:8080")
	a := new(admission)
	var mu sync.Mutex
	var judged []netip.AddrPort
	c := newClient(t, func(cfg *Config) {
		a.configure(cfg)
		cfg.Served = func(_ Protocol, dst netip.AddrPort) (netip.AddrPort, bool) { return target, dst == served }
		cfg.Front = func(_ Protocol, dst netip.AddrPort) netip.AddrPort {
			if dst == served {
				return front
			}
			return netip.AddrPort{}
		}
		cfg.Preface = func(_, dst, to netip.AddrPort, front bool) []byte {
			if !front {
				t.Error("a preface for no front")
			}
			return []byte(dst.String() + " to " + to.String() + "\n")
		}
		cfg.StillAdmits = func(_ uint8, _ netip.Addr, to netip.AddrPort) bool {
			mu.Lock()
			defer mu.Unlock()
			judged = append(judged, to)
			return true
		}
	})
	conn := c.mustDialTCP(served)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	want := served.String() + " to " + target.String() + "\n"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		t.Errorf("the front got %q, %v, want %q", got, err, want)
	}
	c.f.Recheck()
	a.mu.Lock()
	defer a.mu.Unlock()
	mu.Lock()
	defer mu.Unlock()
	for _, asked := range slices.Concat(a.asked, judged) {
		if asked != target {
			t.Errorf("decided about %v, want %v", asked, target)
		}
	}
	if len(a.asked) == 0 || len(judged) == 0 {
		t.Error("nothing was decided")
	}
}

// TestFrontWithoutPreface: a front would take a client's bytes for the preface, so a flow to it fails without one, also if the
// destination had a front at its start only.
func TestFrontWithoutPreface(t *testing.T) {
	got := make(chan int, 1)
	port := serveTCP(t, func(c *net.TCPConn) {
		n, _ := io.Copy(io.Discard, c)
		c.Close()
		got <- int(n)
	})
	served, target := netip.MustParseAddrPort("100.100.1.1:443"), netip.MustParseAddrPort("10.0.3.4:8080")
	var asked atomic.Int32
	c := newClient(t, func(cfg *Config) {
		cfg.Served = func(_ Protocol, dst netip.AddrPort) (netip.AddrPort, bool) { return target, dst == served }
		cfg.Front = func(Protocol, netip.AddrPort) netip.AddrPort {
			if asked.Add(1) > 1 {
				return netip.AddrPort{}
			}
			return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
		}
		cfg.Preface = func(_, _, _ netip.AddrPort, front bool) []byte {
			if !front {
				t.Error("the flow has a front, and Preface is told that it has none")
			}
			return nil
		}
	})
	if conn, err := c.dialTCP(served); err == nil {
		io.WriteString(conn, "forged")
		conn.Close()
		t.Error("connected to a front without a preface")
	}
	if n := testwait.Receive(t, "the end of the connection to the front", got); n != 0 {
		t.Errorf("the front got %d bytes", n)
	}
}

// TestServedAddressIsLookedUpOnce: the address of a served port changes with the name behind it. A flow reaches the address
// that Admit decided about, and is judged by it later; the preface is for that target, too.
func TestServedAddressIsLookedUpOnce(t *testing.T) {
	tcpPort := serveTCP(t, func(c *net.TCPConn) { io.Copy(c, c); c.Close() })
	udpPort := serveUDPEcho(t)
	loopback := netip.MustParseAddr("127.0.0.1")
	a := new(admission)
	var mu sync.Mutex
	var prefaced, judged []netip.AddrPort
	lookUps := 0
	c := newClient(t, func(cfg *Config) {
		a.configure(cfg)
		cfg.Preface = func(_, _, target netip.AddrPort, _ bool) []byte {
			mu.Lock()
			defer mu.Unlock()
			prefaced = append(prefaced, target)
			return nil
		}
		cfg.StillAdmits = func(_ uint8, _ netip.Addr, target netip.AddrPort) bool {
			mu.Lock()
			defer mu.Unlock()
			judged = append(judged, target)
			return true
		}
		cfg.Served = func(protocol Protocol, target netip.AddrPort) (netip.AddrPort, bool) {
			mu.Lock()
			defer mu.Unlock()
			if a.mu.Lock(); len(a.asked) > lookUps { // Admit was asked: the name has another address, where nothing is
				a.mu.Unlock()
				return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), 1), true
			}
			a.mu.Unlock()
			return netip.AddrPortFrom(loopback, map[Protocol]uint16{TCP: tcpPort, UDP: udpPort}[protocol]), true
		}
	})
	served := netip.MustParseAddrPort("100.100.1.1:443")
	conn, err := c.dialTCP(served)
	if err != nil {
		t.Fatalf("the flow did not reach the address that was admitted: %v", err)
	}
	defer conn.Close()
	mustEcho(t, conn)
	mu.Lock()
	lookUps = 1
	mu.Unlock()
	udp := c.dialUDP(served)
	defer udp.Close()
	mustEcho(t, udp)
	c.f.Recheck()
	mu.Lock()
	defer mu.Unlock()
	toTCP, toUDP := netip.AddrPortFrom(loopback, tcpPort), netip.AddrPortFrom(loopback, udpPort)
	if !slices.Equal(prefaced, []netip.AddrPort{toTCP}) {
		t.Errorf("the preface was for %v, want %v", prefaced, toTCP)
	}
	for _, target := range judged {
		if target != toTCP && target != toUDP {
			t.Errorf("an open flow was judged by %v", target)
		}
	}
}

// TestDialChecks: a dial of the process has a flow's checks.
func TestDialChecks(t *testing.T) {
	port := serveTCP(t, func(c *net.TCPConn) { c.Close() })
	local := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
	served, resolved := netip.MustParseAddrPort("100.100.1.1:443"), netip.MustParseAddrPort("10.0.0.1:80")
	c := newClient(t, func(cfg *Config) {
		cfg.Deny = func(target netip.AddrPort) bool { return target == served }
		cfg.DenyDial = func(target netip.AddrPort) bool { return target == local }
		cfg.Resolve = func(string, netip.AddrPort) (netip.AddrPort, error) { return local, nil }
		cfg.Served = func(_ Protocol, target netip.AddrPort) (netip.AddrPort, bool) { return local, target == served }
	})
	for target, want := range map[netip.AddrPort]error{served: nil, resolved: errForbidden} {
		if err := c.f.Dial(t.Context(), target); !errors.Is(err, want) {
			t.Errorf("Dial(%v): %v, want %v", target, err, want)
		}
		conn, err := c.f.DialConn(t.Context(), "tcp", target)
		if !errors.Is(err, want) {
			t.Errorf("DialConn(%v): %v, want %v", target, err, want)
		}
		if err == nil {
			conn.Close()
		}
	}
}
