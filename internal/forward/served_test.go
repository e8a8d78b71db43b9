package forward

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"subnetrouter/internal/packet"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
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

// TestServedEverything: all ports of the node's own addresses are served, apart from its connections and
// listeners. Fragments of a datagram belong together.
func TestServedEverything(t *testing.T) {
	tcpPort := serveTCP(t, func(conn *net.TCPConn) { io.Copy(conn, conn); conn.Close() })
	v4, v6, udpPort := listenUDP(t)
	for _, server := range []*net.UDPConn{v4, v6} {
		go func() {
			buf := make([]byte, 1<<16)
			for {
				n, from, err := server.ReadFromUDPAddrPort(buf)
				if err != nil {
					return
				}
				server.WriteToUDPAddrPort(buf[:n], from)
			}
		}()
	}
	c := newClient(t, func(cfg *Config) {
		cfg.Deny = func(target netip.AddrPort) bool { return target.Addr() == own4 || target.Addr() == own6 }
		cfg.Served = func(_ Protocol, target netip.AddrPort) (netip.AddrPort, bool) {
			to, _ := toLoopback("", target)
			return to, target.Addr() == own4 || target.Addr() == own6
		}
	})
	listening, err := c.f.Listen(80)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := listening.Accept()
			if err != nil {
				return
			}
			io.WriteString(conn, "listener")
			conn.Close()
		}
	}()
	defer listening.Close()
	for i, own := range []netip.Addr{own4, own6} {
		mustEcho(t, c.mustDialTCP(netip.AddrPortFrom(own, tcpPort)))
		if b, err := io.ReadAll(c.mustDialTCP(netip.AddrPortFrom(own, 80))); string(b) != "listener" {
			t.Errorf("%v: the listener answered %q, %v", own, b, err)
		}
		for _, size := range []int{10, 5000} {
			conn := c.dialUDP(netip.AddrPortFrom(own, udpPort))
			want := bytes.Repeat([]byte("x"), size)
			if _, err := conn.Write(want); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 1<<16)
			if n, err := conn.Read(buf); err != nil || !bytes.Equal(buf[:n], want) {
				t.Errorf("%v: a datagram of %d bytes: %d bytes came back, %v", own, size, n, err)
			}
		}
		// The answers to the node's own connections are not those of clients.
		addr, protocol := c.full(netip.AddrPortFrom([]netip.Addr{client4, client6}[i], 7))
		ln, err := gonet.ListenTCP(c.stack, addr, protocol)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		go func() {
			conn, err := ln.Accept()
			if err == nil {
				io.Copy(conn, conn)
				conn.Close()
			}
		}()
		conn, err := c.f.DialTCP(t.Context(), own, netip.AddrPortFrom([]netip.Addr{client4, client6}[i], 7))
		if err != nil {
			t.Fatalf("%v: the node's own connection: %v", own, err)
		}
		conn.SetDeadline(time.Now().Add(patience))
		if _, err := conn.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 5)
		if _, err := io.ReadFull(conn, b); string(b) != "hello" {
			t.Errorf("%v: the node's own connection received %q, %v", own, b, err)
		}
		conn.Close()
	}
}
