package tailnet

import (
	"net/netip"
	"testing"

	"tailscale.com/net/packet"
	"tailscale.com/types/ipproto"
)

// TestRejection reads rejections as a client's engine does.
func TestRejection(t *testing.T) {
	for _, flow := range [][2]string{
		{"100.64.0.2:5000", "10.0.1.6:5432"},
		{"[fd7a:115c:a1e0::2]:5000", "[fd7a:115c:a1e0:b1a:0:7:a00:106]:53"},
	} {
		client, dst := netip.MustParseAddrPort(flow[0]), netip.MustParseAddrPort(flow[1])
		for byPolicy, reason := range map[bool]packet.TailscaleRejectReason{false: packet.RejectedDueToHostFirewall, true: packet.RejectedDueToACLs} {
			for _, proto := range []ipproto.Proto{ipproto.TCP, ipproto.UDP} {
				var p packet.Parsed
				p.Decode(Rejection(byPolicy, uint8(proto), client, dst))
				got, ok := p.AsTailscaleRejectedHeader()
				if !ok || p.IPProto != ipproto.TSMP || got.Src != client || got.Dst != dst || got.Proto != proto ||
					got.Reason != reason || got.MaybeBroken {
					t.Errorf("%v > %v: the client's engine reads %v, %t", client, dst, got, ok)
				}
			}
		}
		if r := Rejection(false, 1, client, dst); r != nil {
			t.Errorf("ICMP: %x, want none", r)
		}
	}
	if r := Rejection(false, 6, netip.MustParseAddrPort("[::1]:1"), netip.MustParseAddrPort("10.0.0.1:1")); r != nil {
		t.Errorf("mixed families: %x, want none", r)
	}
}
