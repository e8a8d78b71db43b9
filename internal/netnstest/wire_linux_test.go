package netnstest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"subnetrouter/internal/testwait"

	"golang.org/x/sys/unix"
)

// overWire returns two hosts with a wire between them, and sockets at 198.51.100.1 (the end
// of the wire) and 198.51.100.2 (at the switch).
func overWire(t *testing.T, o WireOptions) (w *Wire, a, b *Host, near, far *net.UDPConn) {
	t.Helper()
	n := New(t)
	lan := n.Switch("lan")
	a, b = n.Host("a"), n.Host("b")
	w = lan.PlugOver(a, "eth0", o, "198.51.100.1/24", "2001:db8::1/64")
	lan.Plug(b, "eth0", "198.51.100.2/24", "2001:db8::2/64")
	listen := func(h *Host, address string) *net.UDPConn {
		c, err := h.ListenPacket("udp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		u := c.(*net.UDPConn)
		raw, err := u.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		// The sockets must not lose more than the wire does.
		raw.Control(func(fd uintptr) {
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 16<<20)
		})
		return u
	}
	return w, a, b, listen(a, "198.51.100.1:7"), listen(b, "198.51.100.2:7")
}

var (
	nearAddr = netip.MustParseAddrPort("198.51.100.1:7")
	farAddr  = netip.MustParseAddrPort("198.51.100.2:7")
)

// roundTrip returns the time of the fastest of n echoes: the machine may delay any of them.
func roundTrip(t *testing.T, near, far *net.UDPConn, n int) time.Duration {
	t.Helper()
	fastest := time.Duration(math.MaxInt64)
	buf := make([]byte, 100)
	for i := range n {
		binary.BigEndian.PutUint32(buf, uint32(i))
		start := time.Now()
		if _, err := near.WriteToUDPAddrPort(buf, farAddr); err != nil {
			t.Fatal(err)
		}
		for _, c := range []*net.UDPConn{far, near} {
			c.SetReadDeadline(time.Now().Add(testwait.Limit()))
			_, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				t.Fatal(err)
			}
			if c == far {
				far.WriteToUDPAddrPort(buf, from)
			}
		}
		fastest = min(fastest, time.Since(start))
	}
	return fastest
}

func TestWireDelay(t *testing.T) {
	const late = 15 * time.Millisecond // of the fastest of several, on a busy machine
	w, _, _, near, far := overWire(t, Symmetric(DirectionOptions{Delay: 30 * time.Millisecond}))
	if got := roundTrip(t, near, far, 10); got < 60*time.Millisecond || got > 60*time.Millisecond+late {
		t.Errorf("the round-trip time is %v, want 60 ms", got)
	}
	if err := w.SetOptions(WireOptions{ToHost: DirectionOptions{Delay: 10 * time.Millisecond}}); err != nil {
		t.Fatal(err)
	}
	if got := roundTrip(t, near, far, 10); got < 10*time.Millisecond || got > 10*time.Millisecond+late {
		t.Errorf("after the path changed, the round-trip time is %v, want 10 ms", got)
	}
	if err := w.SetOptions(WireOptions{ToHost: DirectionOptions{Loss: 2}}); err == nil {
		t.Error("a probability of 2 is accepted")
	}
}

// receive reads datagrams until none arrives for a while.
func receive(t *testing.T, c *net.UDPConn) (count int, last time.Time) {
	t.Helper()
	buf := make([]byte, 65535)
	patience := testwait.Limit()
	for {
		c.SetReadDeadline(time.Now().Add(patience))
		_, err := c.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) && count > 0 {
			return count, last
		}
		if err != nil {
			t.Fatal(err)
		}
		last = time.Now()
		count++
		patience = time.Second
	}
}

// TestWireRate sends more than the rate for half a second, so that the line is busy until
// the end. A busy machine may delay the last frames, but no frame is early.
func TestWireRate(t *testing.T) {
	const rate, n, size = 10e6, 500, 1250 // a frame of 1,250 bytes takes 1 ms
	w, _, _, near, far := overWire(t, WireOptions{FromHost: DirectionOptions{Rate: rate, Queue: time.Second}})
	roundTrip(t, near, far, 1) // resolves the addresses
	start := time.Now()
	for range n {
		if _, err := near.WriteToUDPAddrPort(make([]byte, size-ethernetHeader-28), farAddr); err != nil {
			t.Fatal(err)
		}
	}
	got, last := receive(t, far)
	if got != n {
		t.Fatalf("%d of %d datagrams arrived: %+v", got, n, w.Stats())
	}
	if speed := n * size * 8 / last.Sub(start).Seconds(); speed < 0.6*rate || speed > rate {
		t.Errorf("the rate is %.0f bit/s, want at most %.0f, and not much less", speed, float64(rate))
	}
}

func TestWireLoss(t *testing.T) {
	const n = 1000
	w, _, _, near, far := overWire(t, WireOptions{})
	roundTrip(t, near, far, 1) // resolves the addresses, which a loss would delay
	if err := w.SetOptions(WireOptions{ToHost: DirectionOptions{Loss: 0.1, Seed: 3}}); err != nil {
		t.Fatal(err)
	}
	for range n {
		if _, err := far.WriteToUDPAddrPort(make([]byte, 100), nearAddr); err != nil {
			t.Fatal(err)
		}
	}
	got, _ := receive(t, near)
	stats := w.Stats()
	if lost := n - got; lost < 60 || lost > 140 || stats.ToHost.Lost < int64(lost) || stats.Missed > 0 {
		t.Errorf("%d of %d datagrams are lost, want a tenth; counts: %+v", lost, n, stats)
	}
}

// TestWireCarriesWholePackets: offloads of the hosts' kernels do not reach the wire, over
// which runs of UDP datagrams and TCP streams of both families arrive in one piece.
func TestWireCarriesWholePackets(t *testing.T) {
	w, a, b, near, far := overWire(t, WireOptions{})
	roundTrip(t, near, far, 1)
	const segment, segments = 1000, 20
	raw, err := near.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, segment) })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := near.WriteToUDPAddrPort(make([]byte, segment*segments), farAddr); err != nil {
		t.Fatal(err)
	}
	if got, _ := receive(t, far); got != segments {
		t.Errorf("%d datagrams arrived, want %d", got, segments)
	}

	const size = 4 << 20
	for _, address := range []string{"198.51.100.2:80", "[2001:db8::2]:80"} {
		ln, err := b.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		go func() { // echoes a stream
			if c, err := ln.Accept(); err == nil {
				io.Copy(c, c)
				c.Close()
			}
		}()
		c, err := a.Dial(testwait.Context(t), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(testwait.Limit()))
		data := bytes.Repeat([]byte("wire"), size/4)
		go func() {
			c.Write(data)
			c.(*net.TCPConn).CloseWrite()
		}()
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s echoed %d of %d bytes, %v", address, len(got), size, err)
		}
	}
	if s := w.Stats(); s.FromHost.TooLarge+s.ToHost.TooLarge > 0 || s.FromHost.Frames < size/1500 {
		t.Errorf("the wire's counts are %+v, want no frame above the MTU", s)
	}
}

func TestWireMTU(t *testing.T) {
	w, _, _, near, far := overWire(t, Symmetric(DirectionOptions{MTU: 1280}))
	roundTrip(t, near, far, 1)
	for _, size := range []int{1281, 1280} { // IP packets
		if _, err := near.WriteToUDPAddrPort(make([]byte, size-28), farAddr); err != nil {
			t.Fatal(err)
		}
	}
	if got, _ := receive(t, far); got != 1 || w.Stats().FromHost.TooLarge != 1 {
		t.Errorf("%d datagrams arrived, want 1: %+v", got, w.Stats())
	}
}
