package forward

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"subnetrouter/internal/packet"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestAccessRules changes the rules while flows are open: flows that are no longer allowed end,
// the others continue, and no new ones open.
func TestAccessRules(t *testing.T) {
	echo := serveUDPEcho(t)
	tcpPort := serveTCP(t, func(c *net.TCPConn) { io.Copy(c, c) })
	type asked struct {
		protocol uint8
		client   netip.Addr
	}
	var forbid atomic.Pointer[netip.Addr]
	var last atomic.Pointer[asked]
	c := newClientWithICMP(t, nil, func(cfg *Config) {
		cfg.Allow = func(protocol uint8, client netip.Addr, dst netip.AddrPort) bool {
			last.Store(&asked{protocol, client})
			f := forbid.Load()
			return f == nil || dst.Addr() != *f
		}
	})
	type pair struct{ tcp, udp net.Conn }
	var all []pair
	for i := range targets(0) {
		p := pair{c.mustDialTCP(targets(tcpPort)[i]), c.dialUDP(targets(echo)[i])}
		mustEcho(t, p.tcp)
		mustEcho(t, p.udp)
		all = append(all, p)
	}
	if got := *last.Load(); got != (asked{packet.ProtoUDP, client6}) {
		t.Errorf("Allow was called with %+v", got)
	}
	if n := c.f.Recheck(); n != 0 {
		t.Errorf("%d flows ended although nothing changed", n)
	}

	for i, target := range targets(0) {
		addr := target.Addr() // the rules apply to the 4via6 address
		forbid.Store(&addr)
		if n := c.f.Recheck(); n != 2 {
			t.Errorf("%v: %d flows ended, want 2", addr, n)
		}
		all[i].tcp.SetReadDeadline(time.Now().Add(patience))
		if _, err := all[i].tcp.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%v: reading from the TCP flow: %v, want a reset", addr, err)
		}
		before := testutil.ToFloat64(c.f.account.failed[UDP][forbidden])
		all[i].udp.Write([]byte("late"))
		waitFor(t, "the datagram to be refused", func() bool { return testutil.ToFloat64(c.f.account.failed[UDP][forbidden]) == before+1 })
		all[i].udp.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if _, err := all[i].udp.Read(make([]byte, 10)); err == nil {
			t.Errorf("%v: a datagram was answered", addr)
		}
		for _, p := range all[i+1:] {
			mustEcho(t, p.tcp)
			mustEcho(t, p.udp)
		}
	}
	waitFor(t, "the flows to be gone", func() bool { return c.f.Active().Total() == 0 })
	for _, protocol := range []Protocol{TCP, UDP} {
		if n := testutil.ToFloat64(c.f.account.closed[protocol][revoked]); n != 3 {
			t.Errorf("%v flows of %s are counted as revoked, want 3", n, protocol)
		}
	}
	c.noFlows()
}

func mustEcho(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
}

// TestNewFlowsNeedARule: flows that no rule allows are dropped without an answer, as the
// engine's own filter does.
func TestNewFlowsNeedARule(t *testing.T) {
	icmp := make(chan quotedError, 16)
	c := newClientWithICMP(t, icmp, func(cfg *Config) {
		cfg.Allow = func(uint8, netip.Addr, netip.AddrPort) bool { return false }
	})
	from, to := netip.AddrPortFrom(client4, 1000), netip.AddrPortFrom(targets(0)[0].Addr(), 7)
	c.f.Deliver([][]byte{tcpSegment(from, to, 1, 2, 0, nil), wholePacket(from, to, 100), echoRequest(from.Addr(), to.Addr(), 1, 0)}, 0)
	for protocol := range protocolCount {
		waitFor(t, protocol.String()+" to be refused", func() bool { return testutil.ToFloat64(c.f.account.failed[protocol][forbidden]) == 1 })
	}
	select {
	case got := <-icmp:
		t.Errorf("the client got ICMP %+v", got)
	case <-time.After(100 * time.Millisecond):
	}
	c.noFlows()
}

// TestRevokedWhileDialing revokes a flow before its target has answered.
func TestRevokedWhileDialing(t *testing.T) {
	var forbid atomic.Bool
	full := fullListener(t)
	c := newClientWithICMP(t, nil, func(cfg *Config) {
		cfg.Resolve = func(string, netip.AddrPort) (netip.AddrPort, error) { return full, nil }
		cfg.Allow = func(uint8, netip.Addr, netip.AddrPort) bool { return !forbid.Load() }
	})
	dialed := make(chan error, 1)
	go func() {
		_, err := c.dialTCP(targets(full.Port())[0])
		dialed <- err
	}()
	waitFor(t, "the dial to begin", func() bool { return len(c.f.tables.all()) == 1 })
	forbid.Store(true)
	if n := c.f.Recheck(); n != 1 {
		t.Errorf("%d flows ended, want 1", n)
	}
	select {
	case err := <-dialed:
		if err == nil {
			t.Error("the connection was opened")
		}
	case <-time.After(patience):
		t.Error("the client got no reset")
	}
	c.noFlows()
}
