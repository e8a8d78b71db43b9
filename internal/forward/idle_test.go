package forward

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
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
		t.Error("quiet although a question of a second ago has no answer")
	}
	think <- struct{}{}
	if _, err := io.ReadFull(conn, make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	if !quiet(time.Second) {
		t.Error("not quiet after the answer")
	}
	conn.Write([]byte("a question for which the target takes too long"))
	if !quiet(busyAfterRequest + time.Second) {
		t.Errorf("not quiet %v after a question", busyAfterRequest)
	}
}

func TestCutGoesOnTakingFlows(t *testing.T) {
	c := newClient(t, nil)
	port := serveTCP(t, func(conn *net.TCPConn) { io.Copy(conn, conn) })
	old := c.mustDialTCP(targets(port)[0])
	defer old.Close()
	if tcp, udp := c.f.Cut(); tcp != 1 || udp != 0 {
		t.Errorf("cut %d and %d flows, want 1 and 0", tcp, udp)
	}
	if _, err := old.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("the flow that was cut says %v", err)
	}
	fresh := c.mustDialTCP(targets(port)[0])
	defer fresh.Close()
	fresh.Write([]byte("on"))
	if _, err := io.ReadFull(fresh, make([]byte, 2)); err != nil {
		t.Errorf("a flow after the cut: %v", err)
	}
}

// elsewhere keeps the packets that it takes.
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

// TestFlowsElsewhere moves a client from one Forwarder to another, as a drain does.
func TestFlowsElsewhere(t *testing.T) {
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
			t.Fatalf("a flow that is here: %v", err)
		}
		if len(other.relayed) > 0 {
			t.Fatal("packets of a flow that is here went elsewhere")
		}

		// A segment and a datagram of no flow here.
		from := netip.AddrPortFrom(client4, 4444)
		if family == 1 {
			from = netip.AddrPortFrom(client6, 4444)
		}
		datagram := make([]byte, headerSize(from.Addr())+udpHeader+3)
		putUDP(datagram, from, target)
		c.f.Deliver([][]byte{datagram}, 0)
		if len(other.relayed) != 1 {
			t.Fatalf("%d packets went elsewhere, want the datagram", len(other.relayed))
		}
		if got := c.f.DeliverRelayed(datagram); got != RelayedUnknown {
			t.Errorf("a relayed datagram of no flow: %v, want it unknown", got)
		}
		if _, udp := c.f.Active(); udp != 0 {
			t.Error("a flow was opened for a datagram of another router's")
		}
		c.f.DeliverUnclaimed(datagram)
		if _, udp := c.f.Active(); udp != 1 {
			t.Error("no flow was opened for what is nobody's")
		}
		if got := c.f.DeliverRelayed(datagram); got != RelayedTaken {
			t.Errorf("a relayed datagram of a flow that is here: %v, want it taken", got)
		}
		// New connections are taken as ever.
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
		{netip.MustParseAddrPort("10.0.3.4:9002"), "never be reached"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		err := c.f.Dial(ctx, tt.target)
		cancel()
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%v: %v, want %q", tt.target, err, tt.want)
		}
	}
}
