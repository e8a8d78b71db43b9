package forward

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"subnetrouter/internal/packet"
	"subnetrouter/internal/testwait"
)

func TestBusyWhileAnAnswerIsDue(t *testing.T) {
	c := newClient(t, nil)
	think := make(chan struct{})
	port := serveTCP(t, func(conn *net.TCPConn) {
		for {
			if _, err := conn.Read(make([]byte, 10)); err != nil {
				return
			}
			<-think
			conn.Write([]byte("answer"))
		}
	})
	conn := c.mustDialTCP(targets(port)[0])
	defer conn.Close()
	quiet := func(within time.Duration) bool {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		return c.f.AwaitIdle(ctx)
	}
	conn.Write([]byte("question"))
	if quiet(time.Second) {
		t.Error("not busy although a request of a second ago has no reply")
	}
	think <- struct{}{}
	if _, err := io.ReadFull(conn, make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	if !quiet(time.Second) {
		t.Error("still busy after the reply")
	}
	conn.Write([]byte("a question for which the target takes too long"))
	if !quiet(busyAfterRequest + time.Second) {
		t.Errorf("still busy %v after a request", busyAfterRequest)
	}
}

// TestBusyUntilTheClientHasTheAnswer: a slow client gets the whole answer of a target that has ended, such as
// an application in the router's task, which stops first.
func TestBusyUntilTheClientHasTheAnswer(t *testing.T) {
	c := newClient(t, nil)
	const size = 16 << 20 // more than a client takes without reading
	written := make(chan struct{})
	port := serveTCP(t, func(conn *net.TCPConn) {
		conn.SetWriteBuffer(size)
		conn.Read(make([]byte, 10))
		close(written)
		conn.Write(make([]byte, size))
		conn.Close()
	})
	conn := c.mustDialTCP(targets(port)[0])
	defer conn.Close()
	conn.Write([]byte("question"))
	<-written
	quiet := func(within time.Duration) bool {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		return c.f.AwaitIdle(ctx)
	}
	if quiet(busyAfterRequest + time.Second) {
		t.Error("not busy although the client has a part of the answer")
	}
	if n, err := io.Copy(io.Discard, conn); n != size || err != nil {
		t.Errorf("the client got %d bytes, want %d: %v", n, size, err)
	}
	if !quiet(busyAfterRequest) {
		t.Error("still busy after the answer")
	}
}

// TestBusyWhileTheClientAdvances: a client that has vanished, or reads no more, keeps a flow busy for a few
// seconds only.
func TestBusyWhileTheClientAdvances(t *testing.T) {
	more := make(chan struct{})
	port := serveTCP(t, func(conn *net.TCPConn) {
		conn.Write([]byte("a"))
		<-more
		conn.Write(make([]byte, 16<<20)) // more than a client takes without reading
	})
	var clients [2]*client
	for i := range clients {
		c := newClient(t, nil)
		clients[i] = c
		conn := c.mustDialTCP(targets(port)[0])
		defer conn.Close()
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	gone := clients[0]
	if err := gone.stack.DisableNIC(1); err != nil {
		t.Fatal(err)
	}
	close(more)
	for _, c := range clients {
		testwait.Until(t, "data for the client", func() error {
			if got := c.f.Flows(1); len(got) != 1 || got[0].ToTailnetBytes < 2 {
				return fmt.Errorf("%+v", got)
			}
			return nil
		})
	}
	quiet := func(c *client, within time.Duration) bool {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		return c.f.AwaitIdle(ctx)
	}
	if quiet(gone, busyAfterRequest) {
		t.Error("not busy although the client may still acknowledge")
	}
	for i, c := range clients {
		if !quiet(c, busyAfterAdvance+2*time.Second) {
			t.Errorf("client %d: still busy although it acknowledges nothing", i)
		}
	}
}

func TestCutKeepsAcceptingFlows(t *testing.T) {
	c := newClient(t, nil)
	port := serveTCP(t, func(conn *net.TCPConn) { io.Copy(conn, conn) })
	old := c.mustDialTCP(targets(port)[0])
	defer old.Close()
	if n := c.f.Cut(); n != (Counts{TCP: 1}) {
		t.Errorf("Cut returned %v flows, want one of TCP", n)
	}
	if _, err := old.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("reading from the flow that was cut: %v, want a reset", err)
	}
	fresh := c.mustDialTCP(targets(port)[0])
	defer fresh.Close()
	fresh.Write([]byte("on"))
	if _, err := io.ReadFull(fresh, make([]byte, 2)); err != nil {
		t.Errorf("a flow after the cut: %v", err)
	}
}

// peerRouter records the packets relayed to it.
type peerRouter struct {
	active  atomic.Bool
	mu      sync.Mutex
	relayed [][]byte
}

func (e *peerRouter) MayHaveFlow() bool { return e.active.Load() }
func (e *peerRouter) Relay(p []byte) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.relayed = append(e.relayed, append([]byte(nil), p...))
	return true
}

// TestFlowsOfPeerRouters moves a client from one Forwarder to another, as a drain does.
func TestFlowsOfPeerRouters(t *testing.T) {
	for _, family := range []int{0, 1} {
		other := &peerRouter{}
		c := newClient(t, func(cfg *Config) { cfg.PeerRouters = other })
		port := serveTCP(t, func(conn *net.TCPConn) { io.Copy(conn, conn) })
		target := targets(port)[family]
		conn := c.mustDialTCP(target)
		defer conn.Close()
		other.active.Store(true)
		conn.Write([]byte("known"))
		if _, err := io.ReadFull(conn, make([]byte, 5)); err != nil {
			t.Fatalf("echo over a local flow: %v", err)
		}
		if len(other.relayed) > 0 {
			t.Fatal("packets of a local flow were relayed")
		}

		// A segment and a datagram that belong to no flow here.
		from := netip.AddrPortFrom(client4, 4444)
		if family == 1 {
			from = netip.AddrPortFrom(client6, 4444)
		}
		datagram := make([]byte, packet.HeaderSize(from.Addr())+packet.UDPHeader+3)
		packet.PutUDP(datagram, from, target)
		c.f.Deliver([][]byte{datagram}, 0)
		if len(other.relayed) != 1 {
			t.Fatalf("%d packets were relayed, want the datagram", len(other.relayed))
		}
		if got := c.f.DeliverRelayed(datagram); got != RelayedUnknown {
			t.Errorf("a relayed datagram without a flow: %v, want RelayedUnknown", got)
		}
		if udp := c.f.Active()[UDP]; udp != 0 {
			t.Error("a datagram of a peer router's flow opened a flow")
		}
		c.f.DeliverUnclaimed(datagram)
		if udp := c.f.Active()[UDP]; udp != 1 {
			t.Error("an unclaimed datagram opened no flow")
		}
		if got := c.f.DeliverRelayed(datagram); got != RelayedTaken {
			t.Errorf("a relayed datagram of a local flow: %v, want RelayedTaken", got)
		}
		// New connections are still accepted.
		fresh := c.mustDialTCP(target)
		fresh.Close()
	}
}

func TestDial(t *testing.T) {
	c := newClient(t, func(cfg *Config) {
		cfg.Deny = func(target netip.AddrPort) bool { return target.Port() == 9002 }
	})
	port := serveTCP(t, func(conn *net.TCPConn) { conn.Close() })
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for _, tt := range []struct {
		target netip.AddrPort
		want   string // in the error; "" is none
	}{
		{targets(port)[0], ""},
		{targets(port)[1], ""},
		{netip.AddrPortFrom(netip.MustParseAddr("10.0.3.4"), closed.Addr().(*net.TCPAddr).AddrPort().Port()), "refused"},
		{netip.MustParseAddrPort("10.0.3.4:9002"), "deny list"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		err := c.f.Dial(ctx, tt.target)
		cancel()
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%v: %v, want %q", tt.target, err, tt.want)
		}
	}
}

func TestPing(t *testing.T) {
	denied := netip.MustParseAddr("10.0.3.9")
	c := newClientWithICMP(t, nil, func(cfg *Config) {
		cfg.Deny = func(target netip.AddrPort) bool { return target.Addr() == denied }
	})
	for _, tt := range []struct {
		target netip.Addr
		want   string // in the error; "" is none
	}{
		{targets(0)[0].Addr(), ""},
		{targets(0)[1].Addr(), ""},
		{denied, "deny list"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		err := c.f.Ping(ctx, tt.target)
		cancel()
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%v: %v, want %q", tt.target, err, tt.want)
		}
	}
}
