package forward

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"subnetrouter/internal/packet"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
)

var (
	own4 = netip.MustParseAddr("100.64.0.1")
	own6 = netip.MustParseAddr("fd7a:115c:a1e0::1")
)

// isOwn reports whether a packet is for the router's own addresses.
func isOwn(raw []byte) bool {
	h, _, ok := packet.ParseHeader(raw)
	return ok && (h.Dst == own4 || h.Dst == own6)
}

func ownAddrs(port uint16) []netip.AddrPort {
	return []netip.AddrPort{netip.AddrPortFrom(own4, port), netip.AddrPortFrom(own6, port)}
}

// TestOwnRefuses: without a listener, segments are reset and datagrams get an ICMP error.
func TestOwnRefuses(t *testing.T) {
	c := newClient(t, nil)
	for _, to := range ownAddrs(443) {
		if conn, err := c.dialTCP(to); err == nil {
			t.Errorf("%v accepted a connection from %v", to, conn.LocalAddr())
		} else if !strings.Contains(err.Error(), "refused") {
			t.Errorf("%v: %v, want a refusal", to, err)
		}
		conn := c.dialUDP(to)
		if _, err := conn.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		c.awaitPortUnreachable(conn, to)
	}
}

// TestOwnListener: a listener has connections to the node's own addresses, and only those. A flow
// to the same port of a target is forwarded.
func TestOwnListener(t *testing.T) {
	answer := func(text string) func(*net.TCPConn) {
		return func(conn *net.TCPConn) { io.WriteString(conn, text); conn.Close() }
	}
	port := serveTCP(t, answer("target"))
	c := newClient(t, nil)
	ln, err := c.f.Listen(port)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			io.WriteString(conn, "own")
			conn.Close()
		}
	}()
	defer ln.Close()
	for want, list := range map[string][]netip.AddrPort{"own": ownAddrs(port), "target": targets(port)} {
		for _, to := range list {
			conn := c.mustDialTCP(to)
			if got, err := io.ReadAll(conn); string(got) != want {
				t.Errorf("%v answered %q, %v, want %q", to, got, err, want)
			}
		}
	}
	// Another port is still refused, although there is a listener now.
	if _, err := c.dialTCP(ownAddrs(port + 1)[0]); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("another port: %v, want a refusal", err)
	}
}

// TestOwnDial opens connections from the node to a peer.
func TestOwnDial(t *testing.T) {
	c := newClient(t, nil)
	for i, peer := range []netip.Addr{client4, client6} {
		to := netip.AddrPortFrom(peer, 8080)
		addr, protocol := c.full(to)
		ln, err := gonet.ListenTCP(c.stack, addr, protocol)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		go func() {
			if conn, err := ln.Accept(); err == nil {
				io.WriteString(conn, conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().String())
				conn.Close()
			}
		}()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		from := ownAddrs(0)[i].Addr()
		conn, err := c.f.DialTCP(ctx, from, to)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(conn); string(got) != from.String() {
			t.Errorf("the peer saw %q, %v, want %v", got, err, from)
		}
		conn.Close()
		if _, err := c.f.DialTCP(ctx, from, netip.AddrPortFrom(peer, 8081)); err == nil {
			t.Error("connected to a port that nothing listens on")
		}
	}
}

// TestOwnPacketConn: a port has the datagrams to all own addresses, and answers from the right
// one.
func TestOwnPacketConn(t *testing.T) {
	c := newClient(t, nil)
	pc, err := c.f.ListenPacket(53)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.f.ListenPacket(53); err == nil {
		t.Error("listened twice on one port")
	}
	ended := make(chan error, 1)
	go func() {
		buf := make([]byte, 2000)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err == nil {
				_, err = pc.WriteTo(buf[:n], from)
			}
			if err != nil {
				ended <- err
				return
			}
		}
	}()
	for _, to := range ownAddrs(53) {
		conn := c.dialUDP(to) // connected: it accepts answers from this address only
		for _, size := range []int{1, 1900} {
			want := bytes.Repeat([]byte{7}, size)
			if _, err := conn.Write(want); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 2000)
			if n, err := conn.Read(got); err != nil || !bytes.Equal(got[:n], want) {
				t.Errorf("%v: %d bytes, %v, want %d", to, n, err, size)
			}
		}
	}
	if _, err := pc.WriteTo([]byte("x"), &net.UDPAddr{IP: net.IPv4(100, 64, 0, 9), Port: 1}); err == nil {
		t.Error("sent to a stranger")
	}
	pc.Close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("the reader ended with %v, want %v", err, net.ErrClosed)
	}
	if pc, err = c.f.ListenPacket(53); err != nil {
		t.Fatal("listening again:", err)
	}
	pc.SetReadDeadline(time.Now().Add(-time.Second))
	if _, _, err := pc.ReadFrom(nil); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("reading after the deadline: %v, want a timeout", err)
	}
}

// TestOwnPacketConnBounded: datagrams that are not read are dropped and counted.
func TestOwnPacketConnBounded(t *testing.T) {
	c := newClient(t, nil)
	if _, err := c.f.ListenPacket(53); err != nil {
		t.Fatal(err)
	}
	raw := wholePacket(netip.AddrPortFrom(client4, 1000), ownAddrs(53)[0], 10)
	before := c.f.drops.counts[dropSocketBuffer].Load()
	for range maxOwnDatagrams + 3 {
		c.f.DeliverOwn(raw)
	}
	if n := c.f.drops.counts[dropSocketBuffer].Load() - before; n != 3 {
		t.Errorf("%d datagrams dropped, want 3", n)
	}
}

// TestOwnEcho answers pings of both families, small and fragmented.
func TestOwnEcho(t *testing.T) {
	f, err := New(Config{Resolve: toLoopback, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var slab packet.Slab
	for i, to := range ownAddrs(0) {
		from := []netip.Addr{client4, client6}[i]
		for _, size := range []int{0, 56, 3000} {
			h := packet.HeaderSize(from)
			request := make([]byte, h+packet.ICMPHeader+size)
			for k := range request {
				request[k] = byte(k)
			}
			message := request[h:]
			packet.PutEchoRequest(message, from.Is6(), 0x0102, 0x0304)
			protocol := []uint8{packet.ProtoICMP, packet.ProtoICMPv6}[i]
			if from.Is6() { // the kernel's part of a request
				binary.BigEndian.PutUint16(message[2:], packet.Checksum(message, packet.PseudoSum(from, to.Addr(), protocol, len(message))))
			}
			packet.PutIP(request, from, to.Addr(), protocol)
			for parts := packet.Split(request, 1280, uint32(i+1)); parts.More(); {
				b := make([]byte, 1280)
				f.DeliverOwn(b[:parts.Next(b)])
			}
			reassembly := packet.NewReassembler(packet.ReassemblerConfig{
				Node: func(a netip.Addr) netip.Addr { return a }, Dropped: func(packet.FragmentDrop, int) {},
			})
			var reply packet.Packet
			for reply.Raw == nil {
				slab.Reset(make([]byte, 1<<17), 128)
				if err := f.Receive(&slab); err != nil {
					t.Fatal(err)
				}
				for k := range slab.Len() {
					raw, _ := slab.Packet(k)
					var p packet.Packet
					if !p.Parse(raw) || len(raw) > 1280 {
						t.Fatalf("got %x", raw)
					}
					if p.Fragment {
						raw = reassembly.Add(raw, time.Now())
					}
					if raw != nil {
						reply.Parse(bytes.Clone(raw))
					}
				}
			}
			if reply.Src != to.Addr() || reply.Dst != from || !reply.ICMPChecksumOK() || !bytes.Equal(reply.Data[4:], request[h+4:]) {
				t.Errorf("%v, %d bytes: got %x", to.Addr(), size, reply.Raw)
			}
		}
	}
}

// TestOwnDeliveryNeverWaits: a full link, a malformed packet or a closed Forwarder do not hold up
// the engine.
func TestOwnDeliveryNeverWaits(t *testing.T) {
	f, err := New(Config{Resolve: toLoopback, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Listen(80); err != nil {
		t.Fatal(err)
	}
	syn := func(port uint16) []byte {
		return tcpSegment(netip.AddrPortFrom(client4, port), ownAddrs(80)[0], 1, byte(packet.SYN), 1, nil)
	}
	for port := range uint16(3 * maxQueuedReplies) { // nothing receives
		f.DeliverOwn(syn(port + 1))
		f.DeliverOwn(wholePacket(netip.AddrPortFrom(client4, port+1), ownAddrs(53)[0], 10))
	}
	f.Close()
	f.DeliverOwn(syn(1))
	if _, err := f.Listen(81); err == nil {
		t.Error("listened after Close")
	}
	if _, err := f.ListenPacket(81); err == nil {
		t.Error("listened after Close")
	}
}
