package tailnet

import (
	"net/netip"

	"subnetrouter/internal/routes"

	"tailscale.com/net/packet"
	"tailscale.com/net/tsaddr"
	"tailscale.com/net/tstun"
	"tailscale.com/types/ipproto"
	"tailscale.com/wgengine/filter"
	"tailscale.com/wgengine/netstack/gro"
)

// dstPort returns a packet's destination port, or 0 if the packet has none. A later fragment
// has none; p.Dst then holds the port of an earlier packet that p was decoded from. Checking
// the first fragment is enough: it holds the port, and the filter accepts later fragments
// only if they begin behind all ports.
func dstPort(p *packet.Parsed) uint16 {
	switch p.IPProto {
	case ipproto.TCP, ipproto.UDP, ipproto.SCTP:
		return p.Dst.Port()
	default:
		return 0
	}
}

// hookPackets handles each packet that passed the tailnet's access rules. In both modes it delivers
// the traffic of [Node.Listen] and [Node.Serve] to the Forwarder, and refuses packets to denied targets. It
// accepts other packets to addresses behind the router, which go to the device: a [flowDevice] or
// the kernel's. In kernel mode it delivers 4via6 packets to the Forwarder, as the kernel has no
// 4via6, and all packets to the address of its responder; in userspace mode, packets for the node
// itself.
//
// The hook runs on the goroutines that receive from WireGuard, which own the packets.
func (n *Node) hookPackets(tun *tstun.Wrapper) {
	userspace := n.mode == ModeUserspace
	tun.PostFilterPacketInboundFromWireGuard = func(p *packet.Parsed, _ *tstun.Wrapper, g *gro.GRO) (filter.Response, *gro.GRO) {
		dst := p.Dst.Addr()
		target := routes.Target(dst)
		via := target != dst
		own := !via && tsaddr.IsTailscaleIP(dst) // the node itself
		if own && (p.IPProto == ipproto.TCP && n.listening.has(p.Dst.Port()) || n.serves(p.IPProto, dstPort(p))) {
			n.forwarder.DeliverOwn(p.Buffer())
			return filter.DropSilently, g
		}
		if n.forwarder.Denied(netip.AddrPortFrom(target, dstPort(p))) {
			n.forwarder.Prohibit(p.Buffer())
			return filter.DropSilently, g
		}
		switch {
		case own:
			if n.handover != nil && p.IPProto == ipproto.UDP && p.Dst.Port() == HandoverPort {
				// SendHandover has this source port; programs behind a router cannot have it.
				if p.Src.Port() == HandoverPort {
					n.handover.Receive(p.Src.Addr(), p.Payload())
				}
				return filter.DropSilently, g
			}
			if userspace {
				n.forwarder.DeliverOwn(p.Buffer())
				return filter.DropSilently, g
			}
		case !userspace && (via || dst == n.forwarder.ResponderAddr()):
			n.forwarder.Deliver([][]byte{p.Buffer()}, 0)
			return filter.DropSilently, g
		}
		return filter.Accept, g
	}
}
