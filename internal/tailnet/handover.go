package tailnet

import (
	"net/netip"
	"slices"

	"tailscale.com/net/packet"
	"tailscale.com/types/ipproto"
)

// HandoverPort is the UDP port, at tailnet addresses, for messages between routers. The
// tailnet's access rules must allow it between routers, as rules that allow everything do.
const HandoverPort = 9003

// SendHandover sends payload to another node's [HandoverPort] in a datagram, which may be
// lost. It copies payload, and blocks until the engine has taken the datagram.
func (n *Node) SendHandover(to netip.Addr, payload []byte) {
	if envelope := n.envelope(to, payload); envelope != nil && n.Started() {
		n.sys.Tun.Get().InjectOutbound(envelope)
	}
}

// SendToPeer sends a whole packet to a peer as if it came from behind this node. It copies
// the packet, and blocks until the engine has taken it.
func (n *Node) SendToPeer(packet []byte) {
	if n.Started() {
		n.sys.Tun.Get().InjectOutbound(slices.Clone(packet))
	}
}

// envelope returns a datagram that carries a copy of payload to a node, or nil while this
// node has no address of that family. The datagram may exceed the tailnet's MTU by its own
// headers: the path between two routers carries it, and nothing drops it on the way.
func (n *Node) envelope(to netip.Addr, payload []byte) []byte {
	from, ok := n.ownAddress(to.Is4())
	if !ok {
		return nil
	}
	if to.Is4() {
		return packet.Generate(packet.UDP4Header{
			IPProto: ipproto.UDP, Src: from, Dst: to, SrcPort: HandoverPort, DstPort: HandoverPort,
		}, payload)
	}
	return packet.Generate(packet.UDP6Header{
		IPProto: ipproto.UDP, Src: from, Dst: to, SrcPort: HandoverPort, DstPort: HandoverPort,
	}, payload)
}

// ownAddress returns this node's address of one family. It reports false while there is none.
func (n *Node) ownAddress(is4 bool) (addr netip.Addr, ok bool) {
	s, _ := n.state.get()
	i := slices.IndexFunc(s.IPs, func(a netip.Addr) bool { return a.Is4() == is4 })
	if i < 0 {
		return netip.Addr{}, false
	}
	return s.IPs[i], true
}
