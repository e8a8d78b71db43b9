package forward

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"subnetrouter/internal/netnstest"
	"subnetrouter/internal/packet"

	"golang.org/x/sys/unix"
)

// maxDeliveryTime is far below the 3 s that the kernel waits for an ARP reply, and far above
// the time that a loaded machine takes for a few hundred packets.
const maxDeliveryTime = time.Second

// vpcHost is a host with a network of silent hosts, 10.9.0.0/16, and one whose hosts do not
// answer ARP, 10.0.1.0/24. It answers at 10.9.0.1 and fd09::1 itself.
func vpcHost(t *testing.T) *netnstest.Host {
	t.Helper()
	n := netnstest.New(t)
	h := n.Host("forward")
	n.Switch("empty").Plug(h, "eth0", "10.0.1.5/24", "fd01::5/64")
	n.Switch("silence").Plug(h, "silent", "10.9.0.1/16", "fd09::1/64")
	h.IP("link", "set", "silent", "arp", "off") // packets there need no ARP reply
	return h
}

// in starts a Forwarder in a namespace. Its sockets are opened there if packets are delivered
// by [netnstest.Host.Do].
func in(t *testing.T, h *netnstest.Host, cfg Config) *Forwarder {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	var f *Forwarder
	if err := h.Do(func() (err error) { f, err = New(cfg); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// do delivers packets in the namespace, and reports how long that took.
func do(t *testing.T, h *netnstest.Host, f *Forwarder, packets ...[]byte) (took time.Duration) {
	t.Helper()
	h.Do(func() error {
		start := time.Now()
		for _, p := range packets {
			f.Deliver([][]byte{p}, 0)
		}
		took = time.Since(start)
		return nil
	})
	return took
}

// replies reads the packets to clients until the Forwarder closes.
func replies(f *Forwarder) <-chan packet.Packet {
	out := make(chan packet.Packet, 10_000)
	go func() {
		var slab packet.Slab
		buf := make([]byte, 70_000)
		for {
			slab.Reset(buf, 1)
			if err := f.Receive(&slab); err != nil {
				return
			}
			var p packet.Packet
			raw, _ := slab.Packet(0)
			if p.Parse(append([]byte(nil), raw...)) {
				out <- p
			}
		}
	}()
	return out
}

// awaitEcho waits for the echo reply with a sequence number.
func awaitEcho(t *testing.T, from <-chan packet.Packet, client netip.Addr, seq uint16) {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case p := <-from:
			if p.Dst == client && len(p.Data) >= packet.ICMPHeader && binary.BigEndian.Uint16(p.Data[4:]) == 77 && binary.BigEndian.Uint16(p.Data[6:]) == seq {
				return
			}
		case <-deadline:
			t.Fatalf("no answer to ping %d of %v", seq, client)
		}
	}
}

// pingKinds runs a test with each of the two kinds of ICMP sockets.
func pingKinds(t *testing.T, test func(*testing.T, *netnstest.Host)) {
	for kind, groups := range map[string]string{"ping socket": "0 2147483647", "raw socket": "1 0"} {
		t.Run(kind, func(t *testing.T) {
			h := vpcHost(t)
			h.Sysctl("net.ipv4.ping_group_range", groups)
			test(t, h)
		})
	}
}

// TestDeliveryDoesNotWaitForARP: packets to hosts that do not answer ARP occupy the send buffer
// for 3 s. Once it is full, further packets are dropped and counted, and other clients are not
// affected.
func TestDeliveryDoesNotWaitForARP(t *testing.T) {
	pingKinds(t, func(t *testing.T, h *netnstest.Host) {
		f := in(t, h, Config{})
		answers := replies(f)
		var sweep [][]byte
		const pings = 3 * 249
		for i := range pings {
			sweep = append(sweep, echoRequest(client4, netip.AddrFrom4([4]byte{10, 0, 1, byte(6 + i%249)}), uint16(i), 1000))
		}
		if took := do(t, h, f, sweep...); took > maxDeliveryTime {
			t.Errorf("a ping sweep of absent hosts delayed delivery by %v", took)
		}
		sent, dropped := counterValue(f.account.opened[ICMP]), f.drops.count(dropSocketBuffer)
		if sent == 0 || dropped == 0 || sent+dropped != pings {
			t.Errorf("of %d requests %d were sent and %d counted as dropped", pings, sent, dropped)
		}
		neighbour := netip.MustParseAddr("100.64.0.3")
		if took := do(t, h, f, echoRequest(neighbour, netip.MustParseAddr("10.9.0.1"), 1, 1000)); took > maxDeliveryTime {
			t.Errorf("another client's ping delayed delivery by %v", took)
		}
		awaitEcho(t, answers, neighbour, 1)

		var flood [][]byte
		for range 1000 {
			flood = append(flood, wholePacket(client4Port, netip.MustParseAddrPort("10.0.1.77:80"), 1000))
		}
		if took := do(t, h, f, flood...); took > maxDeliveryTime {
			t.Errorf("datagrams to an absent host delayed delivery by %v", took)
		}
		up := f.Flows(1)[0].ToVPCPackets
		if dropped := f.drops.count(dropSocketBuffer) - dropped; uint64(up)+dropped != 1000 {
			t.Errorf("of 1000 datagrams %d were sent and %d counted as dropped", up, dropped)
		}
	})
}

// TestEchoSharesArePerPeer: a peer that pings silent hosts, from both of its addresses, evicts
// its own oldest requests and none of another peer.
func TestEchoSharesArePerPeer(t *testing.T) {
	pingKinds(t, func(t *testing.T, h *netnstest.Host) {
		f := in(t, h, Config{Peer: func(a netip.Addr) netip.Addr {
			if a == client6 {
				return client4
			}
			return a
		}})
		answers := replies(f)
		other := netip.MustParseAddr("100.64.0.3")
		silent := func(i int) (src, dst netip.Addr) {
			if i%2 == 0 {
				return client4, netip.AddrFrom4([4]byte{10, 9, byte(1 + i>>8), byte(i)})
			}
			b := netip.MustParseAddr("fd09::").As16()
			b[13], b[14], b[15] = 1, byte(i>>8), byte(i)
			return client6, netip.AddrFrom16(b)
		}
		for i := range 6000 {
			src, dst := silent(i)
			do(t, h, f, echoRequest(src, dst, uint16(i), 8))
			if i%1000 == 999 {
				do(t, h, f, echoRequest(other, netip.MustParseAddr("10.9.0.1"), uint16(i), 8))
				awaitEcho(t, answers, other, uint16(i))
				do(t, h, f, echoRequest(client4, netip.MustParseAddr("10.9.0.1"), 9000, 8))
				awaitEcho(t, answers, client4, 9000)
			}
		}
		f.pinger().mu.Lock()
		n, peers, own := f.pinger().pending, len(f.pinger().peers), f.pinger().peers[client4].pending.Len()
		f.pinger().mu.Unlock()
		if n > maxEchoesPerPeer || own != n || peers != 3 {
			t.Errorf("%d requests are pending, %d of them from the flooding peer, with %d peer addresses; want at most %d and 3", n, own, peers, maxEchoesPerPeer)
		}
		if f.drops.count(dropEchoEvicted) == 0 || f.drops.count(dropSocketBuffer)+f.drops.count(dropFlowFailed) != 0 {
			t.Errorf("drops: %v", dropped(f))
		}
		// Later, all state is removed, including the sockets.
		f.pinger().sweep(time.Now().Add(echoWait + time.Second))
		f.pinger().sweep(time.Now().Add(echoWait + echoSocketIdleTimeout + time.Second))
		f.pinger().mu.Lock()
		defer f.pinger().mu.Unlock()
		if p := f.pinger(); p.pending != 0 || len(p.peers) != 0 || p.sockets != 0 || len(p.shared[family4].pending) != 0 {
			t.Errorf("left: %d requests, %d peers, %d sockets", p.pending, len(p.peers), p.sockets)
		}
	})
}

// TestEchoTableIsBounded: when many peers fill the table, a new request evicts the oldest one
// of the peer with the most.
func TestEchoTableIsBounded(t *testing.T) {
	h := vpcHost(t)
	h.Sysctl("net.ipv4.ping_group_range", "0 2147483647")
	f := in(t, h, Config{})
	answers := replies(f)
	const peers = 3 * maxEchoSockets
	start := time.Now()
	for i := range 2 * maxEchoes {
		src := netip.AddrFrom4([4]byte{100, 64, 1, byte(i % peers)})
		do(t, h, f, echoRequest(src, netip.AddrFrom4([4]byte{10, 9, byte(1 + i>>8), byte(i)}), uint16(i), 8))
	}
	quiet := netip.MustParseAddr("100.64.0.3")
	do(t, h, f, echoRequest(quiet, netip.MustParseAddr("10.9.0.1"), 7, 8))
	awaitEcho(t, answers, quiet, 7)
	f.pinger().mu.Lock()
	defer f.pinger().mu.Unlock()
	if p := f.pinger(); p.pending > maxEchoes || p.sockets > maxEchoSockets || len(p.peers) > peers+1 {
		t.Errorf("%d requests, %d sockets, %d peers", p.pending, p.sockets, len(p.peers))
	}
	// On a slow machine the first requests expire before they are evicted.
	expired := time.Since(start) >= echoWait
	if got := f.drops.count(dropEchoEvicted); got > maxEchoes+1 || got < maxEchoes+1 && !expired || got == 0 {
		t.Errorf("%d evictions, want %d", got, maxEchoes+1)
	}
}

// TestUDPOutOfPorts: without a free port the kernel returns EAGAIN for UDP, EADDRNOTAVAIL for
// TCP. DNS flows run out of ports first, as the kernel chooses theirs.
func TestUDPOutOfPorts(t *testing.T) {
	h := vpcHost(t)
	h.Sysctl("net.ipv4.ip_local_port_range", "40000 40003")
	f := in(t, h, Config{})
	for i := range 20 {
		do(t, h, f, wholePacket(client4Port, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 9, 1, byte(1 + i)}), dnsPort), 20))
	}
	if got := counterValue(f.account.failed[UDP][exhausted]); got != 16 {
		t.Errorf("%d failures are counted as %s, want 16; as %s: %d", got, exhausted, other, counterValue(f.account.failed[UDP][other]))
	}
	if got := f.drops.count(dropFlowFailed); got != 16 {
		t.Errorf("%d packets were counted, want 16", got)
	}
	// A flow that keeps its client's port needs no port of the kernel's choice.
	do(t, h, f, wholePacket(client4Port, netip.MustParseAddrPort("10.9.1.1:5060"), 20))
	if got := counterValue(f.account.opened[UDP]); got != 5 {
		t.Errorf("%d flows were opened, want 5", got)
	}
	sumsOverRoutes(t, f)
}

// localPorts returns the source ports of the flows' sockets, by client and target.
func localPorts(t *testing.T, f *Forwarder) map[string]int {
	t.Helper()
	out := map[string]int{}
	f.udp().mu.Lock()
	defer f.udp().mu.Unlock()
	for key, fl := range f.udp().flows {
		sa, err := unix.Getsockname(fl.fd)
		if err != nil {
			t.Fatal(err)
		}
		port := 0
		switch sa := sa.(type) {
		case *unix.SockaddrInet4:
			port = sa.Port
		case *unix.SockaddrInet6:
			port = sa.Port
		}
		out[key.client.String()+" "+key.dst.String()] = port
	}
	return out
}

// TestUDPSourcePortIsKept: a target sees the client's source port if that is free.
func TestUDPSourcePortIsKept(t *testing.T) {
	h := vpcHost(t)
	f := in(t, h, Config{ReservedPorts: []uint16{41641}})
	taken, err := h.ListenPacket("udp", ":7000")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	const second, home = "100.64.0.3", "100.64.0.2"
	for _, tc := range []struct {
		client, target string
		kept           bool
	}{
		{home + ":5060", "10.9.1.1:5060", true},
		{home + ":5060", "10.9.1.2:5060", true}, // another target
		{home + ":5060", "10.9.1.1:5061", true},
		{second + ":5060", "10.9.1.3:5060", true},
		{second + ":5060", "10.9.1.1:5060", false}, // the first flow has port and target
		{home + ":500", "10.9.1.1:500", true},      // the test is privileged
		{home + ":4500", "10.9.1.1:4500", true},
		{home + ":7000", "10.9.1.1:7000", false}, // used by another program
		{home + ":41641", "10.9.1.1:80", false},  // reserved by the router
		{home + ":6000", "10.9.1.1:53", false},   // random, for DNS
		{"[fd7a:115c:a1e0::2]:5060", "[fd09::7]:5060", true},
		{"[fd7a:115c:a1e0::2]:5061", "[fd7a:115c:a1e0:b1a:0:7:a09:101]:5060", true},  // 4via6
		{"[fd7a:115c:a1e0::2]:5060", "[fd7a:115c:a1e0:b1a:0:7:a09:101]:5060", false}, // of 10.9.1.1
	} {
		client, target := netip.MustParseAddrPort(tc.client), netip.MustParseAddrPort(tc.target)
		do(t, h, f, wholePacket(client, target, 20))
		got, ok := localPorts(t, f)[tc.client+" "+tc.target]
		if !ok {
			t.Fatalf("%s to %s: no flow; %v", tc.client, tc.target, dropped(f))
		}
		if kept := got == int(client.Port()); kept != tc.kept {
			t.Errorf("%s to %s: source port %d, want the client's: %v", tc.client, tc.target, got, tc.kept)
		}
	}
	if sent := f.drops; sent.count(dropSendFailed)+sent.count(dropFlowFailed) != 0 {
		t.Errorf("drops: %v", dropped(f))
	}
	// A port is free again once its flow has ended.
	f.udp().sweep(time.Now().Add(udpIdleTimeout + time.Second))
	if n := len(f.udp().ports.uses); n != 0 {
		t.Fatalf("%d ports are still assigned", n)
	}
	do(t, h, f, wholePacket(netip.MustParseAddrPort(second+":5060"), netip.MustParseAddrPort("10.9.1.1:5060"), 20))
	for flow, port := range localPorts(t, f) {
		if port != 5060 {
			t.Errorf("%s: source port %d after the first flow ended", flow, port)
		}
	}
}

// TestUDPPrivilegedPortNeedsPrivilege: a process that may not bind a port uses another.
func TestUDPPrivilegedPortNeedsPrivilege(t *testing.T) {
	h := vpcHost(t)
	h.Sysctl("net.ipv4.ip_unprivileged_port_start", "1024")
	f := in(t, h, Config{})
	if err := h.Do(func() error {
		return withoutCapabilities(func() {
			f.Deliver([][]byte{wholePacket(netip.MustParseAddrPort("100.64.0.2:500"), netip.MustParseAddrPort("10.9.1.1:500"), 20)}, 0)
		})
	}); err != nil {
		t.Fatal(err)
	}
	for flow, port := range localPorts(t, f) {
		if port < 1024 {
			t.Errorf("%s: source port %d", flow, port)
		}
	}
	if n := len(f.udp().ports.uses); n != 0 || counterValue(f.account.opened[UDP]) != 1 {
		t.Errorf("%d ports assigned, drops %v", n, dropped(f))
	}
}

// withoutCapabilities runs f without capabilities on this thread, which must end afterwards.
func withoutCapabilities(f func()) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		return err
	}
	f()
	return nil
}

// TestUDPSharedPortsKeepTheirAnswers: each of the flows that share a source port gets its own
// target's answers, and no datagrams from other hosts.
func TestUDPSharedPortsKeepTheirAnswers(t *testing.T) {
	h := vpcHost(t)
	f := in(t, h, Config{})
	answers := replies(f)
	const flows = maxPerPort + 8
	for i := range flows {
		host := fmt.Sprintf("10.9.2.%d", 1+i)
		h.Address("silent", host+"/32")
		server, err := h.ListenPacket("udp", host+":5070")
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		go func() {
			buf := make([]byte, 2000)
			for {
				_, from, err := server.ReadFrom(buf)
				if err != nil {
					return
				}
				server.WriteTo([]byte(host), from)
			}
		}()
	}
	for i := range flows {
		do(t, h, f, wholePacket(netip.MustParseAddrPort("100.64.0.2:5060"), netip.MustParseAddrPort(fmt.Sprintf("10.9.2.%d:5070", 1+i)), 20))
	}
	for range flows {
		select {
		case p := <-answers:
			if want := p.Src.String(); p.Protocol != packet.ProtoUDP || string(p.Data) != want {
				t.Errorf("the datagram from %s contains %q", want, p.Data)
			}
		case <-time.After(patience):
			t.Fatal("an answer is missing")
		}
	}
	kept := 0
	for _, port := range localPorts(t, f) {
		if port == 5060 {
			kept++
		}
	}
	if kept != maxPerPort {
		t.Errorf("%d flows share a port, want %d", kept, maxPerPort)
	}
}

// TestSocketReportsForeignDatagrams floods a port while flows bind it.
func TestSocketReportsForeignDatagrams(t *testing.T) {
	h := vpcHost(t)
	ctx, cancel := context.WithCancel(t.Context())
	foreign, err := h.ListenPacket("udp", "10.9.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	flooded := make(chan struct{})
	go func() {
		defer close(flooded)
		to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.9.0.1:5060"))
		for ctx.Err() == nil {
			foreign.WriteTo([]byte("foreign"), to)
		}
	}()
	// The host's own address is the target, so that the flooded address is the source
	// address.
	target := netip.MustParseAddrPort("10.9.0.1:9")
	taken, read := 0, 0
	err = h.Do(func() error {
		for i := 0; i < 5000 || read == 0 && i < 100_000; i++ {
			fd, kept, err := connectFrom(unix.SOCK_DGRAM, sourcePort{port: 5060}, target)
			if err != nil {
				return err
			}
			if kept {
				taken++
			}
			for range 3 {
				var b [64]byte
				n, _, foreign, err := receive(fd, b[:], target)
				if err == nil {
					read++
					if !foreign {
						unix.Close(fd)
						return fmt.Errorf("kept %v: read %q", kept, b[:n])
					}
				}
			}
			unix.Close(fd)
		}
		return nil
	})
	cancel()
	<-flooded
	if err != nil || taken == 0 || read == 0 {
		t.Errorf("the port was bound %d times, %d foreign datagrams were read; %v", taken, read, err)
	}
}

// TestFlowDropsForeignDatagrams: a datagram that another host sent to a kept port before the
// socket was connected does not reach the client.
func TestFlowDropsForeignDatagrams(t *testing.T) {
	h := vpcHost(t)
	f := in(t, h, Config{})
	answers := replies(f)
	server, err := h.ListenPacket("udp", "10.9.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	foreign, err := h.ListenPacket("udp", "10.9.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	target := server.LocalAddr().(*net.UDPAddr).AddrPort()
	client := netip.MustParseAddrPort("100.64.0.2:5060")
	do(t, h, f, wholePacket(client, target, 20))
	buf := make([]byte, 100)
	_, from, err := server.ReadFrom(buf)
	if err != nil {
		t.Fatal(err)
	}
	fl := f.udp().find(flowKey{client, target})
	if !fl.bound.target.IsValid() {
		t.Fatal("the flow did not keep its client's port")
	}
	// Recreate the state in which the socket was not connected yet.
	err = h.Do(func() error {
		fl.mu.Lock()
		defer fl.mu.Unlock()
		if err := unix.Connect(fl.fd, &unix.SockaddrInet4{Port: foreign.LocalAddr().(*net.UDPAddr).Port, Addr: [4]byte{10, 9, 0, 1}}); err != nil {
			return err
		}
		if _, err := foreign.WriteTo([]byte("foreign"), from); err != nil {
			return err
		}
		return unix.Connect(fl.fd, sockaddr(target))
	})
	if err != nil {
		t.Fatal(err)
	}
	server.WriteTo([]byte("answer"), from)
	select {
	case p := <-answers:
		if string(p.Data) != "answer" {
			t.Errorf("the client received %q", p.Data)
		}
	case <-time.After(patience):
		t.Fatal("the answer is missing")
	}
	if got := f.drops.count(dropUnmatched); got != 1 {
		t.Errorf("%d datagrams were counted as unmatched, want the foreign one", got)
	}
}
