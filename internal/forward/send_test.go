package forward

import (
	"bytes"
	"log/slog"
	"net/netip"
	"testing"

	"subnetrouter/internal/packet"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// prohibited returns the Forwarder's immediate answer to packet, or nil.
func prohibited(t *testing.T, f *Forwarder, packet []byte) []byte {
	t.Helper()
	f.Prohibit(packet)
	select {
	case p := <-f.link.replies:
		return p.b[:p.n]
	default:
		return nil
	}
}

func newTestForwarder(t *testing.T) *Forwarder {
	t.Helper()
	f, err := New(Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

var (
	client4Port, client6Port = netip.AddrPortFrom(client4, 5000), netip.AddrPortFrom(client6, 5000)
	denied4, denied6         = netip.MustParseAddrPort("169.254.170.2:80"), netip.MustParseAddrPort("[fd00:ec2::254]:80")
)

// TestProhibitQuotesThePacket parses the answer with x/net, independently of the code that
// built it.
func TestProhibitQuotesThePacket(t *testing.T) {
	f := newTestForwarder(t)
	for _, tc := range []struct {
		src, dst netip.AddrPort
		typ      icmp.Type
		code     int
	}{
		{client4Port, denied4, ipv4.ICMPTypeDestinationUnreachable, 13},
		{client6Port, denied6, ipv6.ICMPTypeDestinationUnreachable, 1},
	} {
		original := wholePacket(tc.src, tc.dst, 1000)
		raw := prohibited(t, f, original)
		var p packet.Packet
		if raw == nil || !p.Parse(raw) || p.Src != tc.dst.Addr() || p.Dst != tc.src.Addr() {
			t.Fatalf("%v: answered %x", tc.dst, raw)
		}
		sum := uint64(0)
		if p.Src.Is6() {
			sum = packet.PseudoSum(p.Src, p.Dst, packet.ProtoICMPv6, len(p.Data))
		}
		msg, err := icmp.ParseMessage(int(p.Protocol), p.Data)
		if err != nil || msg.Type != tc.typ || msg.Code != tc.code || packet.Checksum(p.Data, sum) != 0 {
			t.Fatalf("%v: %+v, %v", tc.dst, msg, err)
		}
		if quote := msg.Body.(*icmp.DstUnreach).Data; !bytes.HasPrefix(original, quote) || len(quote) < packet.HeaderSize(p.Src)+8 {
			t.Errorf("%v: the %d quoted bytes are not the start of the packet", tc.dst, len(quote))
		}
		if len(raw) > 1280 {
			t.Errorf("the error has %d bytes, more than the minimum MTU", len(raw))
		}
	}
}

func TestProhibitIsSilentWhereItMustBe(t *testing.T) {
	f := newTestForwarder(t)
	asICMP := func(dst netip.AddrPort, typ byte) []byte {
		raw := wholePacket(client4Port, dst, 40)
		packet.PutIP(raw, client4, dst.Addr(), packet.ProtoICMP)
		raw[packet.IPv4Header] = typ
		return raw
	}
	parts := fragments(wholePacket(client6Port, denied6, 3000), 7)
	for name, tc := range map[string]struct {
		packet   []byte
		answered bool
	}{
		"echo request":    {asICMP(denied4, 8), true},
		"echo reply":      {asICMP(denied4, 0), false},
		"ICMP error":      {asICMP(denied4, 3), false},
		"multicast":       {wholePacket(client4Port, netip.MustParseAddrPort("224.0.0.1:80"), 0), false},
		"no source":       {wholePacket(netip.MustParseAddrPort("0.0.0.0:80"), denied4, 0), false},
		"first fragment":  {parts[0], true},
		"second fragment": {parts[1], false},
		"junk":            {[]byte{0x45}, false},
	} {
		if got := prohibited(t, f, tc.packet) != nil; got != tc.answered {
			t.Errorf("%s: answered %v, want %v", name, got, tc.answered)
		}
	}
}
