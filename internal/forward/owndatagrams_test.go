package forward

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"subnetrouter/internal/packet"
)

// TestOwnDatagrams: a socket of DialUDP exchanges datagrams with its peer, and with no other.
func TestOwnDatagrams(t *testing.T) {
	for _, is4 := range []bool{true, false} {
		n := newTwoNodes(t, nil)
		pc, err := n.b.ListenPacket(53)
		if err != nil {
			t.Fatal(err)
		}
		c, err := n.a.DialUDP(ownA[is4], netip.AddrPortFrom(ownB[is4], 53))
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(patience))
		buf := make([]byte, 4000)
		for _, size := range []int{0, 1, 3000} {
			want := bytes.Repeat([]byte{7}, size)
			if _, err := c.Write(want); err != nil {
				t.Fatal(err)
			}
			m, from, err := pc.ReadFrom(buf)
			if err != nil || !bytes.Equal(buf[:m], want) || from.String() != c.LocalAddr().String() {
				t.Fatalf("%d bytes from %v, %v", m, from, err)
			}
			if _, err := pc.WriteTo(want, from); err != nil {
				t.Fatal(err)
			}
			if m, err := c.Read(buf); err != nil || !bytes.Equal(buf[:m], want) {
				t.Fatalf("%d bytes, %v", m, err)
			}
		}
		// Another port of the peer is a stranger, and gets an ICMP error.
		local := c.LocalAddr().(*net.UDPAddr).AddrPort()
		stranger, err := n.b.DialUDP(ownB[is4], local)
		if err != nil {
			t.Fatal(err)
		}
		stranger.SetDeadline(time.Now().Add(patience))
		stranger.Write([]byte("x"))
		if _, err := stranger.Read(buf); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("an answer to a stranger: %v, want %v", err, syscall.ECONNREFUSED)
		}
		// Datagrams that are not read are bounded in bytes and number.
		for size, want := range map[int]int{60_000: 1, 10: maxOwnDatagrams} {
			n := 0
			for d := c.(*ownDatagrams); n < 100 && d.take(make([]byte, size)); n++ {
			}
			if n != want {
				t.Errorf("%d datagrams of %d bytes wait, want %d", n, size, want)
			}
			for range n {
				if m, err := c.Read(buf[:0]); m != 0 || err != nil {
					t.Fatal(m, err)
				}
			}
		}
		c.SetReadDeadline(time.Now().Add(-time.Second))
		if _, err := c.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v after the deadline", err)
		}
		c.Close()
		if _, err := c.Read(buf); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%v after Close", err)
		}
		if _, err := c.Write(buf); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%v after Close", err)
		}
	}
}

// TestOwnDatagramsTakeMemory: datagrams that wait for their reader are in the budget, until they are read or their
// socket is closed.
func TestOwnDatagramsTakeMemory(t *testing.T) {
	f, err := New(Config{Resolve: toLoopback, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	f.memory.setMemory(4 * 8000) // an eighth of 8,000 bytes is always there
	f.memory.used.Store(8000)
	conn, err := f.DialUDP(ownA[true], netip.AddrPortFrom(ownB[true], 53))
	if err != nil {
		t.Fatal(err)
	}
	c := conn.(*ownDatagrams)
	for i, size := range []int{400, 500, 600} {
		if got, want := c.take(make([]byte, size)), i < 2; got != want {
			t.Errorf("datagram %d was taken: %v, want %v", i, got, want)
		}
	}
	if n := f.memory.dialed.Load(); n != 900 {
		t.Errorf("%d bytes are in the budget, want 900", n)
	}
	if n, err := c.Read(make([]byte, 1000)); n != 400 || f.memory.dialed.Load() != 500 {
		t.Errorf("read %d bytes, %v; %d are in the budget, want 500", n, err, f.memory.dialed.Load())
	}
	c.Close()
	if n := f.memory.dialed.Load(); n != 0 {
		t.Errorf("%d bytes are in the budget after Close", n)
	}
}

// TestOwnDialBounds: sockets and connections that this node opens have bounds of their own.
func TestOwnDialBounds(t *testing.T) {
	n := newTwoNodes(t, func(int) bool { return true })
	to := netip.AddrPortFrom(ownB[true], 53)
	seen := map[string]bool{}
	for i := range maxOwnDatagramConns + 1 {
		c, err := n.a.DialUDP(ownA[true], to)
		if last := i == maxOwnDatagramConns; last != (err != nil) || last && !errors.Is(err, ErrTooMany) {
			t.Fatalf("socket %d: %v", i, err)
		}
		if c != nil {
			if seen[c.LocalAddr().String()] {
				t.Fatal("two sockets with one port")
			}
			seen[c.LocalAddr().String()] = true
		}
	}
	for i := range maxOwnDialed + 1 {
		_, err := n.a.own.tcp.reserve(ownA[true], to)
		if last := i == maxOwnDialed; last != (err != nil) || last && !errors.Is(err, ErrTooMany) {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	if _, err := n.a.own.tcp.addLocked(flowKey{client: to, dst: netip.AddrPortFrom(ownA[true], 80)}, false); err != nil {
		t.Errorf("accepting at the bound of dialed connections: %v", err)
	}
}

// TestOwnDialUnreachable: an ICMP error about the SYN ends the attempt at once.
func TestOwnDialUnreachable(t *testing.T) {
	for _, is4 := range []bool{true, false} {
		f, err := New(Config{Resolve: toLoopback, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		ended := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			_, err := f.DialTCP(ctx, ownA[is4], netip.AddrPortFrom(ownB[is4], 80))
			ended <- err
		}()
		var slab packet.Slab
		slab.Reset(make([]byte, 1<<17), 8)
		if err := f.Receive(&slab); err != nil {
			t.Fatal(err)
		}
		syn, _ := slab.Packet(0)
		answer := make([]byte, packet.MaxICMPError)
		answer = answer[:packet.PutICMPError(answer, syn, packet.AdminProhibited, 0)]
		f.DeliverOwn(answer)
		if err := <-ended; !errors.Is(err, syscall.EHOSTUNREACH) {
			t.Errorf("%v, want %v", err, syscall.EHOSTUNREACH)
		}
	}
}
