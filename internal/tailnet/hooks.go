package tailnet

import (
	"net"
	"net/netip"

	"subnetrouter/internal/routes"

	"tailscale.com/net/packet"
	"tailscale.com/net/tsaddr"
	"tailscale.com/net/tstun"
	"tailscale.com/types/nettype"
	"tailscale.com/wgengine/filter"
	"tailscale.com/wgengine/netstack"
	"tailscale.com/wgengine/netstack/gro"
)

// hookFlows hands every TCP and UDP flow of the userspace stack to the
// Forwarder; the stack's own forwarding is never used.
func (n *Node) hookFlows(ns *netstack.Impl) {
	ns.GetTCPHandlerForFlow = func(src, dst netip.AddrPort) (func(net.Conn), bool) {
		target, ok := flowTarget(dst)
		if !ok {
			return nil, true
		}
		serve, ok := n.cfg.Forwarder.TCP(src, target)
		if !ok {
			return nil, true
		}
		return serve, true
	}
	ns.GetUDPHandlerForFlow = func(src, dst netip.AddrPort) (func(nettype.ConnPacketConn), bool) {
		target, ok := flowTarget(dst)
		if !ok {
			return nil, true
		}
		serve, ok := n.cfg.Forwarder.UDP(src, target)
		if !ok {
			return nil, true
		}
		return func(c nettype.ConnPacketConn) { serve(c) }, true
	}
}

// flowTarget undoes 4via6. A flow to the node's own tailnet address is none of
// the Forwarder's: by default the stack would pass it to loopback, and show
// the tailnet what listens there.
func flowTarget(dst netip.AddrPort) (target netip.AddrPort, ok bool) {
	addr := routes.Target(dst.Addr())
	if addr == dst.Addr() && tsaddr.IsTailscaleIP(addr) {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(addr, dst.Port()), true
}

// hookPackets looks at each packet that passed the tailnet's access rules,
// before the userspace stack or the kernel sees it.
func (n *Node) hookPackets(tun *tstun.Wrapper) {
	next := tun.PostFilterPacketInboundFromWireGuard
	tun.PostFilterPacketInboundFromWireGuard = func(p *packet.Parsed, t *tstun.Wrapper, g *gro.GRO) (filter.Response, *gro.GRO) {
		dst := p.Dst.Addr()
		target := routes.Target(dst)
		if n.cfg.Forwarder.Denied(netip.AddrPortFrom(target, p.Dst.Port())) {
			if answer := prohibited(p); answer != nil {
				t.InjectOutbound(answer)
			}
			return filter.DropSilently, g
		}
		via := target != dst
		if p.IsEchoRequest() && (via || n.mode == ModeUserspace && !tsaddr.IsTailscaleIP(dst)) {
			n.echo(p, t, target)
			return filter.DropSilently, g
		}
		return next(p, t, g)
	}
}

// echo forwards an echo request and sends the answer back as from the address
// that the client pinged.
func (n *Node) echo(p *packet.Parsed, t *tstun.Wrapper, target netip.Addr) {
	body := p.Payload() // identifier, sequence number, data
	if len(body) < 4 {
		return
	}
	var idSeq [4]byte
	copy(idSeq[:], body)
	src, dst := p.Src.Addr(), p.Dst.Addr()
	n.cfg.Forwarder.Echo(src, target, body[4:], func(data []byte) {
		t.InjectOutbound(icmpPacket(dst, src, echoReply, append(idSeq[:], data...)))
	})
}
