package e2e

import (
	"io"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
)

// TestPackets tests the influence of a client's packets on each other in the router, and the
// source of its datagrams at a target.
func TestPackets(t *testing.T) {
	w := newWorld(t, worldOptions{})
	r := w.startRouter(routerOptions{})
	c := w.startClient()
	r.awaitReady()
	c.awaitRoute("10.0.0.0/16")

	t.Run("a ping sweep of absent hosts does not stall a stream", func(t *testing.T) { sweepDuringStream(t, w) })
	t.Run("the client's source port is kept", func(t *testing.T) {
		server := must(w.vpc.ListenPacket("udp", secondHost+":5080"))
		defer server.Close()
		var conn net.Conn
		err := w.client.Do(func() (err error) {
			conn, err = net.DialUDP("udp", &net.UDPAddr{Port: 5060}, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(secondHost+":5080")))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.Write([]byte("REGISTER"))
		server.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, from, err := server.ReadFrom(make([]byte, 100))
		if err != nil {
			t.Fatal(err)
		}
		if _, port, _ := net.SplitHostPort(from.String()); port != strconv.Itoa(5060) {
			t.Errorf("the target sees port %s, want 5060", port)
		}
	})
}

// sweepDuringStream pings all 249 absent hosts of the router's subnet, and watches a TCP
// connection meanwhile. The kernel's ARP queries of one host take 3 s.
func sweepDuringStream(t *testing.T, w *world) {
	ln := must(w.vpc.Listen("tcp", dbHost+":9007"))
	defer ln.Close()
	go func() {
		if conn, err := ln.Accept(); err == nil {
			io.Copy(conn, conn)
		}
	}()
	conn := must(w.client.Dial(t.Context(), "tcp", dbHost+":9007"))
	defer conn.Close()
	longest := func(during time.Duration) (gap time.Duration) {
		t.Helper()
		for end := time.Now().Add(during); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
			start := time.Now()
			conn.SetDeadline(start.Add(20 * time.Second))
			if _, err := conn.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			gap = max(gap, time.Since(start))
		}
		return gap
	}
	before := longest(time.Second)
	raw := must(w.client.ListenPacket("ip4:icmp", "0.0.0.0"))
	defer raw.Close()
	swept := make(chan error, 1)
	go func() { swept <- sweep(raw) }()
	during := longest(4 * time.Second)
	if err := <-swept; err != nil {
		t.Fatal(err)
	}
	t.Logf("longest round trip %v before, %v during the sweep", before, during)
	if during > before+time.Second {
		t.Errorf("the stream stalled for %v, want at most its longest pause before: %v", during, before)
	}
}

// sweep pings each address of the router's subnet without a host twice, which is more than a
// socket's send buffer holds. It is slow enough that no buffer on the way to the router
// overflows.
func sweep(raw net.PacketConn) error {
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	for i := range 2 * 249 {
		message, err := (&icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: 77, Seq: i, Data: make([]byte, 1000)}}).Marshal(nil)
		if err != nil {
			return err
		}
		if _, err := raw.WriteTo(message, &net.IPAddr{IP: net.IPv4(10, 0, 1, byte(6+i%249))}); err != nil {
			return err
		}
		<-pace.C
	}
	return nil
}
