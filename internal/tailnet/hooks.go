package tailnet

import (
	"net"
	"net/netip"

	"subnetrouter/internal/routes"

	"tailscale.com/net/packet"
	"tailscale.com/net/tsaddr"
	"tailscale.com/net/tstun"
	"tailscale.com/types/ipproto"
	"tailscale.com/types/nettype"
	"tailscale.com/wgengine/filter"
	"tailscale.com/wgengine/netstack"
	"tailscale.com/wgengine/netstack/gro"
)

// refuseFlows keeps netstack to what is the node's own (peer API). By default it
// would pass a flow to the node's tailnet address on to loopback, and show the
// tailnet what listens there.
func refuseFlows(ns *netstack.Impl) {
	ns.GetTCPHandlerForFlow = func(_, _ netip.AddrPort) (func(net.Conn), bool) { return nil, true }
	ns.GetUDPHandlerForFlow = func(_, _ netip.AddrPort) (func(nettype.ConnPacketConn), bool) { return nil, true }
}

// dstPort is a packet's destination port, or 0 if the packet has none. A later fragment
// has none: p then has that of the packet that it was decoded from before. It needs
// none: the filter passes later fragments only where they cannot hold a port, and the
// first fragment, which does, was checked.
func dstPort(p *packet.Parsed) uint16 {
	switch p.IPProto {
	case ipproto.TCP, ipproto.UDP, ipproto.SCTP:
		return p.Dst.Port()
	}
	return 0
}

// hookPackets looks at each packet that passed the tailnet's access rules, before
// anything else sees it: what must not be reached ends here, in both modes. What
// is for addresses behind the router goes on to the device, [flowDevice] or the
// kernel's; but the kernel knows nothing of 4via6.
func (n *Node) hookPackets(tun *tstun.Wrapper) {
	next := tun.PostFilterPacketInboundFromWireGuard
	userspace := n.mode == ModeUserspace
	tun.PostFilterPacketInboundFromWireGuard = func(p *packet.Parsed, t *tstun.Wrapper, g *gro.GRO) (filter.Response, *gro.GRO) {
		dst := p.Dst.Addr()
		target := routes.Target(dst)
		if n.forwarder.Denied(netip.AddrPortFrom(target, dstPort(p))) {
			n.forwarder.Prohibit(p.Buffer())
			return filter.DropSilently, g
		}
		via := target != dst
		switch {
		case !via && tsaddr.IsTailscaleIP(dst): // the node itself
			if n.handover != nil && p.IPProto == ipproto.UDP && p.Dst.Port() == HandoverPort {
				n.handover.Receive(p.Src.Addr(), p.Payload())
				return filter.DropSilently, g
			}
			return next(p, t, g)
		case userspace:
			return filter.Accept, g
		case via:
			n.forwarder.Deliver([][]byte{p.Buffer()}, 0)
			return filter.DropSilently, g
		}
		return next(p, t, g)
	}
}
