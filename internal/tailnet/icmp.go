package tailnet

import (
	"net/netip"

	"tailscale.com/net/packet"
	"tailscale.com/types/ipproto"
)

// adminProhibited tells the sender at once that a rule, not the network, stands
// between (RFC 1812 section 5.2.7.1, RFC 4443 section 3.1). rest is what follows
// the checksum.
func adminProhibited(src, dst netip.Addr, rest []byte) []byte {
	if src.Is4() {
		return packet.Generate(packet.ICMP4Header{
			IP4Header: packet.IP4Header{IPProto: ipproto.ICMPv4, Src: src, Dst: dst},
			Type:      packet.ICMP4Unreachable, Code: 13,
		}, rest)
	}
	return packet.Generate(packet.ICMP6Header{
		IP6Header: packet.IP6Header{IPProto: ipproto.ICMPv6, Src: src, Dst: dst},
		Type:      packet.ICMP6Unreachable, Code: 1,
	}, rest)
}

// prohibited answers p, or gives nil where no answer is due: never to an ICMP
// error, nor to what was not sent to one host (RFC 1122 section 3.2.2).
func prohibited(p *packet.Parsed) []byte {
	src, dst := p.Src.Addr(), p.Dst.Addr()
	if p.IsError() || dst.IsMulticast() || src.IsUnspecified() {
		return nil
	}
	// Enough of the packet for the sender to find the socket it came from:
	// the IP header and 8 bytes, or for IPv6 more, within the minimum MTU.
	quote := p.Buffer()
	most := 68
	if dst.Is6() {
		most = 512
	}
	rest := append(make([]byte, 4, 4+most), quote[:min(len(quote), most)]...)
	return adminProhibited(dst, src, rest)
}
