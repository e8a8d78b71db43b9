package forward

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"subnetrouter/internal/packet"
	"subnetrouter/internal/testwait"

	"golang.org/x/net/nettest"
)

// twoNodes are two forwarders, each of which delivers its packets to the other as packets for its
// own addresses.
type twoNodes struct {
	a, b *Forwarder
	lose func(i int) bool // whether the packet number i is lost; nil: none is

	mu   sync.Mutex
	sent int
}

var (
	ownA = map[bool]netip.Addr{true: netip.MustParseAddr("100.64.0.1"), false: netip.MustParseAddr("fd7a:115c:a1e0::1")}
	ownB = map[bool]netip.Addr{true: netip.MustParseAddr("100.64.0.2"), false: netip.MustParseAddr("fd7a:115c:a1e0::2")}
)

func newTwoNodes(t testing.TB, lose func(i int) bool) *twoNodes {
	t.Helper()
	n := &twoNodes{lose: lose}
	create := func() *Forwarder {
		f, err := New(Config{Resolve: toLoopback, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	n.a, n.b = create(), create()
	var moving sync.WaitGroup
	moving.Go(func() { n.move(n.a, n.b) })
	moving.Go(func() { n.move(n.b, n.a) })
	t.Cleanup(func() {
		n.a.Close()
		n.b.Close()
		moving.Wait()
	})
	return n
}

func (n *twoNodes) move(from, to *Forwarder) {
	var slab packet.Slab
	buf := make([]byte, 1<<17)
	for {
		slab.Reset(buf, 128)
		if from.Receive(&slab) != nil {
			return
		}
		for i := range slab.Len() {
			raw, _ := slab.Packet(i)
			n.mu.Lock()
			n.sent++
			lost := n.lose != nil && n.lose(n.sent)
			n.mu.Unlock()
			if !lost {
				to.DeliverOwn(raw)
			}
		}
	}
}

// TestOwnConn is the conformance test of net.Conn, on a perfect and on a lossy path.
func TestOwnConn(t *testing.T) {
	for name, lose := range map[string]func(int) bool{
		"perfect": nil,
		"lossy":   func(i int) bool { return i%50 == 7 },
	} {
		for _, is4 := range []bool{true, false} {
			t.Run(name+map[bool]string{true: "/IPv4", false: "/IPv6"}[is4], func(t *testing.T) {
				n := newTwoNodes(t, lose)
				ln, err := n.b.Listen(80)
				if err != nil {
					t.Fatal(err)
				}
				defer ln.Close()
				nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					defer cancel()
					if c1, err = n.a.DialTCP(ctx, ownA[is4], netip.AddrPortFrom(ownB[is4], 80)); err != nil {
						return nil, nil, nil, err
					}
					if c2, err = ln.Accept(); err != nil {
						return nil, nil, nil, err
					}
					return c1, c2, func() { c1.Close(); c2.Close() }, nil
				})
			})
		}
	}
}

// TestOwnConnEnds: what was written before Close arrives, a half-close leaves the other direction
// open, and unread data makes Close a reset. Nothing of a connection remains.
func TestOwnConnEnds(t *testing.T) {
	n := newTwoNodes(t, nil)
	ln, err := n.b.Listen(80)
	if err != nil {
		t.Fatal(err)
	}
	connect := func() (c1, c2 net.Conn) {
		c1, err := n.a.DialTCP(t.Context(), ownA[true], netip.AddrPortFrom(ownB[true], 80))
		if err != nil {
			t.Fatal(err)
		}
		c2, err = ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return c1, c2
	}
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)

	c1, c2 := connect()
	go func() { c1.Write(data); c1.Close() }()
	if got, err := io.ReadAll(c2); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read %d bytes, %v, want %d", len(got), err, len(data))
	}
	c2.Close()

	c1, c2 = connect()
	c1.(*ownConn).CloseWrite()
	if _, err := c1.Write([]byte("x")); err == nil {
		t.Error("wrote after CloseWrite")
	}
	if _, err := io.ReadAll(c2); err != nil {
		t.Errorf("reading to the end: %v", err)
	}
	go func() { c2.Write(data); c2.Close() }()
	if got, err := io.ReadAll(c1); err != nil || !bytes.Equal(got, data) {
		t.Errorf("after CloseWrite: read %d bytes, %v, want %d", len(got), err, len(data))
	}
	c1.Close()

	c1, c2 = connect()
	c1.Write([]byte("unread"))
	testwait.Until(t, "the data", func() error {
		if c := c2.(*ownConn); !c.waits() {
			return errors.New("nothing has arrived")
		}
		return nil
	})
	c2.Close()
	if _, err := c1.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("read: %v, want a reset", err)
	}
	c1.Close()

	testwait.Until(t, "the connections to be gone", func() error {
		for _, f := range []*Forwarder{n.a, n.b} {
			if conns, held := f.own.tcp.size(), f.memory.used.Load(); conns != 0 || held != 0 {
				return errors.New("connections or buffers remain")
			}
		}
		return nil
	})
}

func (c *ownConn) waits() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn.Available() > 0
}

func (t *ownTCP) size() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.conns) + len(t.byPeer) + len(t.byPort)
}

// TestOwnConnBounds: neither one peer nor all peers together can open more connections than their
// bound, and the two ports of the peer API leave some to a third port.
func TestOwnConnBounds(t *testing.T) {
	f, err := New(Config{Resolve: toLoopback, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for port := range uint16(3) {
		if _, err := f.Listen(80 + port); err != nil {
			t.Fatal(err)
		}
	}
	var slab packet.Slab
	buf := make([]byte, 1<<17)
	answers := func() (n int) { // SYN-ACKs; the rest are resets
		for !f.link.empty() {
			slab.Reset(buf, 128)
			if f.Receive(&slab) != nil {
				return n
			}
			for i := range slab.Len() {
				raw, _ := slab.Packet(i)
				if raw[20+13] == byte(packet.SYN|packet.ACK) {
					n++
				}
			}
		}
		return n
	}
	open := func(peer netip.Addr, port, to uint16) {
		f.DeliverOwn(tcpSegment(netip.AddrPortFrom(peer, port), ownAddrs(to)[0], 1, byte(packet.SYN), 1, nil))
	}
	before := runtime.NumGoroutine()
	got := 0
	for port := range uint16(100) {
		open(client4, port+1, 80)
		got += answers()
	}
	if got != maxOwnConnsPerPeer {
		t.Errorf("one peer has %d connections, want %d", got, maxOwnConnsPerPeer)
	}
	for i, want := range []int{maxOwnConnsPerPort, 2 * maxOwnConnsPerPort, maxOwnConns} {
		for peer := range 50 {
			for port := range uint16(100) {
				open(netip.AddrFrom4([4]byte{100, 64, byte(1 + i), byte(peer)}), port+1, uint16(80+i))
				got += answers()
			}
		}
		if got != want {
			t.Errorf("with all peers at ports 80 to %d there are %d connections, want %d", 80+i, got, want)
		}
	}
	if n := runtime.NumGoroutine() - before; n > 10 {
		t.Errorf("the connections have %d goroutines", n)
	}
}

// TestOwnDialEnds: a peer that does not answer ends a dial at its context.
func TestOwnDialEnds(t *testing.T) {
	n := newTwoNodes(t, func(int) bool { return true })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := n.a.DialTCP(ctx, ownA[true], netip.AddrPortFrom(ownB[true], 80)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("dial: %v, want the end of the context", err)
	}
	if size := n.a.own.tcp.size(); size != 0 {
		testwait.Until(t, "the connection to be gone", func() error {
			if n.a.own.tcp.size() != 0 {
				return errors.New("it is in the table")
			}
			return nil
		})
	}
}

// TestDialedConnsShare: connections into the tailnet have a part of the budget together, as the flows of one node have. The
// rest is for the flows of others.
func TestDialedConnsShare(t *testing.T) {
	n := newTwoNodes(t, nil)
	ln, err := n.b.Listen(80)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var conns [2]*ownConn
	for i := range conns {
		c, err := n.a.DialTCP(t.Context(), ownA[true], netip.AddrPortFrom(ownB[true], 80))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns[i] = c.(*ownConn)
	}
	memory := n.a.memory
	memory.setMemory(1 << 30)
	full, other := conns[0], conns[1]
	alone := other.limit()
	full.mu.Lock() // so that no segment changes the part again
	full.hold(memory.total.Load() / peerPart)
	limit, share := other.limit(), memory.share()
	full.hold(0)
	full.mu.Unlock()
	if limit != minBuffer || share <= minBuffer || other.limit() != alone || alone != maxBuffer {
		t.Errorf("a connection may hold %d bytes next to one that fills the part of all, want %d; alone %d and %d; a flow %d", limit, minBuffer, alone, other.limit(), share)
	}
}
