package tailnet

import (
	"net/netip"
	"slices"

	"tailscale.com/net/packet"
	"tailscale.com/types/ipproto"
)

// HandoverPort is the UDP port, on tailnet addresses, at which routers talk to each
// other. The tailnet's access rules must let routers reach it among themselves, as
// they do where all may reach all.
const HandoverPort = 9003

// SendHandover sends payload to another node's [HandoverPort]; like any datagram, it
// may be lost. It blocks until the engine has taken it.
func (n *Node) SendHandover(to netip.Addr, payload []byte) {
	if envelope := n.envelope(to, payload); envelope != nil && n.Started() {
		n.sys.Tun.Get().InjectOutbound(envelope)
	}
}

// SendToPeer sends a whole packet to a peer as if it came from behind this node.
func (n *Node) SendToPeer(packet []byte) {
	if n.Started() {
		n.sys.Tun.Get().InjectOutbound(slices.Clone(packet))
	}
}

// envelope is the datagram that carries payload to a node, or nil while this node has
// no address of that family. It may exceed the tailnet's MTU by its own headers: what
// counts is the path below, between two routers, and nothing in between drops it.
func (n *Node) envelope(to netip.Addr, payload []byte) []byte {
	s, _ := n.state.get()
	i := slices.IndexFunc(s.IPs, func(a netip.Addr) bool { return a.Is4() == to.Is4() })
	if i < 0 {
		return nil
	}
	if to.Is4() {
		return packet.Generate(packet.UDP4Header{
			IP4Header: packet.IP4Header{IPProto: ipproto.UDP, Src: s.IPs[i], Dst: to}, SrcPort: HandoverPort, DstPort: HandoverPort,
		}, payload)
	}
	return packet.Generate(packet.UDP6Header{
		IP6Header: packet.IP6Header{IPProto: ipproto.UDP, Src: s.IPs[i], Dst: to}, SrcPort: HandoverPort, DstPort: HandoverPort,
	}, payload)
}
