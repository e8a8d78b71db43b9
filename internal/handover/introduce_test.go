package handover

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"subnetrouter/internal/packet"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// TestIntroduce: before control moves the routes, the successor sends each client a packet,
// which opens its session with the client.
func TestIntroduce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		p.giveRoutes(p.old)
		if n := p.old.BeginDrain(t.Context()); n != 1 {
			t.Fatalf("%d helpers", n)
		}
		second := netip.MustParseAddr("100.64.0.10")
		p.old.Introduce(t.Context(), []Client{{client, target}, {client, target.Next()}, {second, target}})
		got := p.new.list(&p.new.toClient)
		if len(got) != 2 {
			t.Fatalf("the successor sent %d packets to clients, want one to each of 2", len(got))
		}
		for i, want := range []netip.Addr{client, second} {
			q, _, _ := packet.ParseHeader([]byte(got[i]))
			if q.Src != target || q.Dst != want {
				t.Errorf("a packet from %v to %v, want from %v to %v", q.Src, q.Dst, target, want)
			}
		}
	})
}

// TestIntroduceIsBounded: a router with many clients introduces a part of them, in a bounded
// time; one without clients does not wait.
func TestIntroduceIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		p.giveRoutes(p.old)
		p.old.BeginDrain(t.Context())
		start := time.Now()
		p.old.Introduce(t.Context(), nil)
		if took := time.Since(start); took > 0 {
			t.Errorf("without clients it took %v", took)
		}
		var clients []Client
		for a := client; len(clients) < 2*maxIntroduced; a = a.Next() {
			clients = append(clients, Client{a, target})
		}
		start = time.Now()
		p.old.Introduce(t.Context(), clients)
		if took := time.Since(start); took > time.Second {
			t.Errorf("it took %v", took)
		}
		if n := len(p.new.list(&p.new.toClient)); n != maxIntroduced {
			t.Errorf("%d clients were introduced, want %d", n, maxIntroduced)
		}
	})
}

// TestIntroducedToHelpersOnly: a router that offers no help gets no packet for a client.
func TestIntroducedToHelpersOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, func(p *pair) { p.new.canRelay = false })
		p.giveRoutes(p.old)
		p.old.BeginDrain(t.Context())
		before := p.messages
		p.old.Introduce(t.Context(), []Client{{client, target}})
		if p.messages != before {
			t.Errorf("%d messages went to a router that does not relay", p.messages-before)
		}
	})
}

func TestEchoReply(t *testing.T) {
	p4 := header.IPv4(echoReply(target, client))
	if !p4.IsValid(len(p4)) || !p4.IsChecksumValid() || header.ICMPv4(p4.Payload()).Type() != header.ICMPv4EchoReply {
		t.Errorf("invalid: %x", []byte(p4))
	}
	if sum := header.ICMPv4Checksum(header.ICMPv4(p4.Payload()), 0); sum != header.ICMPv4(p4.Payload()).Checksum() {
		t.Errorf("the ICMP checksum is %x, want %x", header.ICMPv4(p4.Payload()).Checksum(), sum)
	}
	src, dst := netip.MustParseAddr("fd7a:115c:a1e0:b1a:0:7:a00:304"), netip.MustParseAddr("fd7a:115c:a1e0::9")
	p6 := header.IPv6(echoReply(src, dst))
	h := header.ICMPv6(slices.Clone(p6.Payload()))
	if !p6.IsValid(len(p6)) || h.Type() != header.ICMPv6EchoReply {
		t.Errorf("invalid: %x", []byte(p6))
	}
	want := header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: h, Src: p6.SourceAddress(), Dst: p6.DestinationAddress()})
	if h.Checksum() != want {
		t.Errorf("the ICMPv6 checksum is %x, want %x", h.Checksum(), want)
	}
}
