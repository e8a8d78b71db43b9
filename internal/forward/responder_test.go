package forward

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"subnetrouter/internal/packet"
	"subnetrouter/internal/testwait"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// shout is a responder that answers in capitals.
func shout(addr netip.AddrPort) *Responder {
	return &Responder{
		Addr:     addr,
		Datagram: func(_ netip.AddrPort, payload []byte, answer func([]byte)) { answer(bytes.ToUpper(payload)) },
		Stream: func(_ netip.AddrPort, conn net.Conn) {
			defer conn.Close()
			b := make([]byte, 1000)
			for {
				n, err := conn.Read(b)
				if err != nil {
					return
				}
				conn.Write(bytes.ToUpper(b[:n]))
			}
		},
	}
}

// TestResponder: a responder has the datagrams and connections to its own port and address, and the
// flows to other ports and addresses go on.
func TestResponder(t *testing.T) {
	port := serveTCP(t, func(conn *net.TCPConn) { io.Copy(conn, conn) })
	for i, addr := range targets(53) {
		var dialed atomic.Int32
		c := newClient(t, func(cfg *Config) {
			cfg.Resolve = func(network string, target netip.AddrPort) (netip.AddrPort, error) {
				dialed.Add(1)
				return toLoopback(network, target)
			}
		})
		c.f.SetResponder(shout(addr))
		udp, tcp := c.dialUDP(addr), c.mustDialTCP(addr)
		for _, conn := range []net.Conn{udp, tcp} {
			for range 3 {
				if got := ask(t, conn, "hello"); got != "HELLO" {
					t.Errorf("%v: %q, want the responder's answer", addr, got)
				}
			}
		}
		if n := c.f.Active(); n.Total() != 0 || dialed.Load() != 0 {
			t.Errorf("%v: %v flows and %d dials, want none", addr, n, dialed.Load())
		}
		other := targets(port)
		for _, to := range []netip.AddrPort{other[i], other[(i+1)%len(other)]} {
			if got := ask(t, c.mustDialTCP(to), "hello"); got != "hello" {
				t.Errorf("%v: %q, want the target's answer", to, got)
			}
		}
		c.f.SetResponder(nil)
		if _, err := io.ReadAll(tcp); err == nil {
			t.Errorf("%v: the connection ended without a reset", addr)
		}
		if c.f.ResponderAddr().IsValid() {
			t.Errorf("%v: the responder still has an address", addr)
		}
	}
}

func ask(t *testing.T, conn net.Conn, text string) string {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1000)
	n, err := conn.Read(b)
	if err != nil {
		t.Errorf("no answer: %v", err)
	}
	return string(b[:n])
}

// TestResponderRules: a responder answers only packets that the deny list and the access rules allow, however
// the packet arrives.
func TestResponderRules(t *testing.T) {
	addr := targets(53)[0]
	var forbid, deny atomic.Bool
	c := newClient(t, func(cfg *Config) {
		cfg.Deny = func(netip.AddrPort) bool { return deny.Load() }
		cfg.Allow = func(uint8, netip.Addr, netip.AddrPort) bool { return !forbid.Load() }
	})
	asked := make(chan string, 16)
	s := shout(addr)
	s.Datagram = func(_ netip.AddrPort, payload []byte, _ func([]byte)) { asked <- string(payload) }
	c.f.SetResponder(s)
	from := netip.MustParseAddrPort("100.64.0.2:4444")
	const syn, ack = 2, 16
	if got := c.f.DeliverRelayed(datagramOf(from, addr, "hello")); got != RelayedTaken || <-asked != "hello" {
		t.Errorf("a relayed datagram: %v, want it answered", got)
	}
	if got := c.f.DeliverRelayed(tcpSegment(from, addr, 1, ack, 1, []byte("x"))); got != RelayedReset {
		t.Errorf("a relayed segment of no connection: %v, want a reset", got)
	}
	for name, set := range map[string]*atomic.Bool{"the deny list": &deny, "no access rule": &forbid} {
		set.Store(true)
		for kind, raw := range map[string][]byte{
			"datagram": datagramOf(from, addr, "secret"), "SYN": tcpSegment(from, addr, 1, syn, 1, nil), "segment": tcpSegment(from, addr, 1, ack, 1, []byte("x")),
		} {
			if got := c.f.DeliverRelayed(raw); got != RelayedRefused {
				t.Errorf("%s, a relayed %s: %v, want a refusal", name, kind, got)
			}
			c.f.Deliver([][]byte{raw}, 0)
		}
		set.Store(false)
	}
	select {
	case got := <-asked:
		t.Errorf("the responder was asked %q", got)
	default:
	}
	// The connection of a client whose access ended has no more data.
	conn := c.mustDialTCP(addr)
	if got := ask(t, conn, "hello"); got != "HELLO" {
		t.Errorf("%q, want the responder's answer", got)
	}
	forbid.Store(true)
	io.WriteString(conn, "hello")
	conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := conn.Read(make([]byte, 10)); err == nil {
		t.Errorf("an answer of %d bytes without access", n)
	}
}

func datagramOf(from, to netip.AddrPort, text string) []byte {
	h := packet.HeaderSize(from.Addr()) + packet.UDPHeader
	b := append(make([]byte, h), text...)
	packet.PutUDP(b, from, to)
	return b
}

// takingPeers are peer routers that take every packet.
type takingPeers struct{ taken atomic.Int32 }

func (*takingPeers) MayHaveFlow() bool { return true }
func (p *takingPeers) Relay([]byte) bool {
	p.taken.Add(1)
	return true
}

// TestResponderDuringHandover: a peer router gets the segments of connections that it may have, and
// nothing else.
func TestResponderDuringHandover(t *testing.T) {
	addr := targets(53)[0]
	peers := new(takingPeers)
	c := newClient(t, func(cfg *Config) { cfg.PeerRouters = peers })
	c.f.SetResponder(shout(addr))
	for _, conn := range []net.Conn{c.dialUDP(addr), c.mustDialTCP(addr)} {
		if got := ask(t, conn, "hello"); got != "HELLO" {
			t.Errorf("%q, want the responder's answer", got)
		}
	}
	if n := peers.taken.Load(); n != 0 {
		t.Errorf("%d packets were relayed", n)
	}
	const ack = 16
	c.f.Deliver([][]byte{tcpSegment(netip.MustParseAddrPort("100.64.0.2:4444"), addr, 1, ack, 1, []byte("x"))}, 0)
	if n := peers.taken.Load(); n != 1 {
		t.Errorf("%d segments of another router's connection were relayed, want 1", n)
	}
}

// TestResponderBlocked: delivery goes on while the responder's functions block.
func TestResponderBlocked(t *testing.T) {
	port := serveTCP(t, func(conn *net.TCPConn) { io.Copy(conn, conn) })
	addr := targets(53)[0]
	c := newClient(t, nil)
	release := make(chan struct{})
	var begun atomic.Int32
	c.f.SetResponder(&Responder{
		Addr:     addr,
		Datagram: func(netip.AddrPort, []byte, func([]byte)) { begun.Add(1); <-release },
		Stream:   func(_ netip.AddrPort, conn net.Conn) { begun.Add(1); <-release; conn.Close() },
	})
	c.mustDialTCP(addr)
	raw := datagramOf(netip.MustParseAddrPort("100.64.0.2:4444"), addr, "hello")
	c.f.Deliver([][]byte{raw}, 0)
	testwait.Until(t, "both functions block", func() error { return wantCount(begun.Load(), 2) })
	const extra = 10
	for range maxResponderQueue + extra {
		c.f.Deliver([][]byte{raw}, 0)
	}
	if got := ask(t, c.mustDialTCP(targets(port)[1]), "hello"); got != "hello" {
		t.Errorf("%q, want the target's answer", got)
	}
	if n := c.f.drops.count(dropResponderBusy); n != extra {
		t.Errorf("%d datagrams were dropped, want %d", n, extra)
	}
	close(release)
	testwait.Until(t, "the waiting datagrams are handled", func() error { return wantCount(begun.Load(), maxResponderQueue+2) })
}

func wantCount(got, want int32) error {
	if got != want {
		return fmt.Errorf("%d calls, want %d", got, want)
	}
	return nil
}

// TestResponderAnswers: an answer that does not fit into one packet is dropped, an empty one is none,
// and one after the end does no harm.
func TestResponderAnswers(t *testing.T) {
	addr := targets(53)[1]
	c := newClient(t, nil)
	kept := make(chan func([]byte), 1)
	c.f.SetResponder(&Responder{Addr: addr, Datagram: func(_ netip.AddrPort, payload []byte, answer func([]byte)) {
		switch payload[0] {
		case 'l':
			kept <- answer
		case 'b':
			answer(make([]byte, 1233))
		case 'f':
			answer(make([]byte, 1232))
		default:
			answer(nil)
		}
	}})
	conn := c.dialUDP(addr)
	for _, text := range []string{"later", "big", "none", "fits"} {
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
	}
	b := make([]byte, 2000)
	if n, err := conn.Read(b); n != 1232 {
		t.Errorf("%d bytes, %v, want the answer that fits", n, err)
	}
	if n := c.f.drops.count(dropTooBig); n != 1 {
		t.Errorf("%d answers were too big, want 1", n)
	}
	answer := <-kept
	answer([]byte("late"))
	if n, err := conn.Read(b); string(b[:n]) != "late" {
		t.Errorf("%q, %v, want the late answer", b[:n], err)
	}
	c.f.SetResponder(nil)
	answer([]byte("after the end"))
	c.f.Close()
	answer([]byte("after the end"))
	c.f.SetResponder(shout(addr)) // has no effect
	if c.f.ResponderAddr().IsValid() {
		t.Error("a closed forwarder has a responder")
	}
}

// TestResponderHostilePackets: no packet to the responder's address stops it.
func TestResponderHostilePackets(t *testing.T) {
	for _, addr := range targets(53) {
		c := newClientWithICMP(t, nil, nil)
		c.f.SetResponder(shout(addr))
		from := netip.AddrPortFrom(client4, 4444)
		if addr.Addr().Is6() {
			from = netip.AddrPortFrom(client6, 4444)
		}
		whole := datagramOf(from, addr, "hello")
		segment := tcpSegment(from, addr, 1, 2, 1, []byte("x"))
		for _, raw := range [][]byte{whole, segment} {
			for n := range raw {
				c.f.Deliver([][]byte{bytes.Clone(raw[:n])}, 0)
				damaged := bytes.Clone(raw)
				damaged[n] ^= 0xff
				c.f.Deliver([][]byte{damaged}, 0)
				c.f.DeliverRelayed(damaged)
			}
		}
		c.f.Deliver([][]byte{datagramOf(from, addr, string(make([]byte, 2000)))}, 0)
		for _, part := range fragments(wholePacket(from, addr, 1000), 7) { // reassembled
			c.f.Deliver([][]byte{part}, 0)
		}
		badSum := bytes.Clone(whole)
		badSum[len(badSum)-1] ^= 1
		before := c.f.drops.count(dropChecksum)
		c.f.Deliver([][]byte{badSum}, 0)
		if c.f.drops.count(dropChecksum) != before+1 {
			t.Error("a wrong checksum was not counted")
		}
		for _, conn := range []net.Conn{c.dialUDP(addr), c.mustDialTCP(addr)} {
			if got := ask(t, conn, "hello"); got != "HELLO" {
				t.Errorf("%v: %q, want the responder's answer", addr, got)
			}
		}
	}
}

// TestResponderBoundsConnections: one client's connections to the responder are bounded.
func TestResponderBoundsConnections(t *testing.T) {
	addr := targets(53)[0]
	c := newClient(t, nil)
	c.f.SetResponder(shout(addr))
	for range maxOwnConnsPerPeer {
		c.mustDialTCP(addr)
	}
	if _, err := c.dialTCP(addr); err == nil {
		t.Errorf("a client has more than %d connections", maxOwnConnsPerPeer)
	}
	if n := testutil.ToFloat64(c.f.account.opened[TCP]); n > 0 {
		t.Errorf("%v connections were counted as flows", n)
	}
}

// TestDialConn: a connection of the process has the checks of a flow.
func TestDialConn(t *testing.T) {
	port := serveTCP(t, func(conn *net.TCPConn) { io.Copy(conn, conn) })
	v4, v6, udpPort := listenUDP(t)
	for _, pc := range []*net.UDPConn{v4, v6} {
		go func() {
			b := make([]byte, 100)
			for {
				n, from, err := pc.ReadFromUDPAddrPort(b)
				if err != nil {
					return
				}
				pc.WriteToUDPAddrPort(b[:n], from)
			}
		}()
	}
	denied := targets(port)[1]
	c := newClient(t, func(cfg *Config) {
		cfg.Deny = func(target netip.AddrPort) bool { return target == denied }
		cfg.DenyDial = func(to netip.AddrPort) bool { return to.Port() == 1 }
	})
	for network, to := range map[string]netip.AddrPort{"tcp": targets(port)[0], "udp": targets(udpPort)[0]} {
		conn, err := c.f.DialConn(t.Context(), network, to)
		if err != nil {
			t.Fatal(err)
		}
		if got := ask(t, conn, "hello"); got != "hello" {
			t.Errorf("%s: %q, want the target's answer", network, got)
		}
		conn.Close()
	}
	for _, to := range []netip.AddrPort{denied, targets(1)[0]} {
		for _, network := range []string{"tcp", "udp"} {
			if _, err := c.f.DialConn(t.Context(), network, to); err == nil {
				t.Errorf("connected to %v over %s", to, network)
			}
		}
	}
}
