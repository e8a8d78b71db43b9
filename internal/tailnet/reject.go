package tailnet

import (
	"net/netip"

	"tailscale.com/net/packet"
	"tailscale.com/types/ipproto"
)

// Rejection returns a message of Tailscale's own protocol (TSMP) that reports to a client's
// node that this node refuses a flow to dst. The client's tailscaled lists it among its
// rejected connections: with the reason "host-firewall" for the deny list, which is this node's own
// rule and no change of the tailnet's policy can lift, and with "acl" if byPolicy is set, for a
// grant that is missing. It returns nil for protocols other than TCP and UDP, for which there is no
// such message.
func Rejection(byPolicy bool, protocol uint8, client, dst netip.AddrPort) []byte {
	proto := ipproto.Proto(protocol)
	if proto != ipproto.TCP && proto != ipproto.UDP || client.Addr().Is4() != dst.Addr().Is4() {
		return nil
	}
	reason := packet.RejectedDueToHostFirewall
	if byPolicy {
		reason = packet.RejectedDueToACLs
	}
	return packet.Generate(packet.TailscaleRejectedHeader{
		IPSrc: dst.Addr(), IPDst: client.Addr(), Src: client, Dst: dst, Proto: proto,
		Reason: reason,
	}, nil)
}
