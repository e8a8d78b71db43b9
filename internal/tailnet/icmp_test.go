package tailnet

import (
	"bytes"
	"net/netip"
	"testing"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"tailscale.com/net/packet"
	"tailscale.com/types/ipproto"
)

var (
	from4, to4 = netip.MustParseAddr("100.64.0.2"), netip.MustParseAddr("169.254.170.2")
	from6, to6 = netip.MustParseAddr("fd7a:115c:a1e0::2"), netip.MustParseAddr("fd00:ec2::254")
)

// parse reads a packet with a parser that is not the builder's.
func parse(t *testing.T, raw []byte) (src, dst netip.Addr, msg *icmp.Message) {
	t.Helper()
	if raw[0]>>4 == 4 {
		h, err := ipv4.ParseHeader(raw)
		if err != nil {
			t.Fatal(err)
		}
		src, _ = netip.AddrFromSlice(h.Src.To4())
		dst, _ = netip.AddrFromSlice(h.Dst.To4())
		if msg, err = icmp.ParseMessage(1, raw[h.Len:]); err != nil {
			t.Fatal(err)
		}
		if sum(raw[h.Len:]) != 0xffff {
			t.Error("wrong ICMP checksum")
		}
		return src, dst, msg
	}
	h, err := ipv6.ParseHeader(raw)
	if err != nil {
		t.Fatal(err)
	}
	src, _ = netip.AddrFromSlice(h.Src)
	dst, _ = netip.AddrFromSlice(h.Dst)
	if msg, err = icmp.ParseMessage(58, raw[40:]); err != nil {
		t.Fatal(err)
	}
	pseudo := append(append(raw[8:40:40], 0, 0, raw[4], raw[5]), 0, 0, 0, 58)
	if sum(append(pseudo, raw[40:]...)) != 0xffff {
		t.Error("wrong ICMPv6 checksum")
	}
	return src, dst, msg
}

// sum is the ones' complement sum (RFC 1071); 0xffff over data with its checksum.
func sum(b []byte) uint16 {
	var s uint32
	for i, c := range b {
		s += uint32(c) << (8 * (1 - i%2))
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

func udpPacket(src, dst netip.Addr, payload []byte) []byte {
	if src.Is4() {
		h := packet.UDP4Header{IP4Header: packet.IP4Header{Src: src, Dst: dst, IPProto: ipproto.UDP}, SrcPort: 5000, DstPort: 80}
		return packet.Generate(h, payload)
	}
	h := packet.UDP6Header{IP6Header: packet.IP6Header{Src: src, Dst: dst, IPProto: ipproto.UDP}, SrcPort: 5000, DstPort: 80}
	return packet.Generate(h, payload)
}

func TestProhibitedQuotesThePacket(t *testing.T) {
	for _, tc := range []struct {
		src, dst netip.Addr
		typ      icmp.Type
		code     int
	}{
		{from4, to4, ipv4.ICMPTypeDestinationUnreachable, 13},
		{from6, to6, ipv6.ICMPTypeDestinationUnreachable, 1},
	} {
		original := udpPacket(tc.src, tc.dst, bytes.Repeat([]byte("x"), 1000))
		var p packet.Parsed
		p.Decode(original)
		raw := prohibited(&p)
		src, dst, msg := parse(t, raw)
		if src != tc.dst || dst != tc.src || msg.Type != tc.typ || msg.Code != tc.code {
			t.Errorf("%v -> %v: %v code %d", src, dst, msg.Type, msg.Code)
		}
		if quote := raw[len(raw)-len(msg.Body.(*icmp.DstUnreach).Data):]; !bytes.HasPrefix(original, quote) || len(quote) < 28 {
			t.Errorf("quotes %d bytes that are not the packet's beginning", len(quote))
		}
		if len(raw) > 1280 {
			t.Errorf("%d bytes do not fit the minimum MTU", len(raw))
		}
	}
}

func TestProhibitedIsSilentWhereItMustBe(t *testing.T) {
	var p packet.Parsed
	p.Decode(adminProhibited(from4, to4, make([]byte, 32)))
	if prohibited(&p) != nil {
		t.Error("an ICMP error was answered by another")
	}
	p.Decode(udpPacket(from4, netip.MustParseAddr("224.0.0.1"), nil))
	if prohibited(&p) != nil {
		t.Error("a multicast packet was answered")
	}
}
