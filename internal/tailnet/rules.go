package tailnet

import (
	"net/netip"
	"slices"
	"sync"

	"tailscale.com/net/packet"
	"tailscale.com/tailcfg"
	"tailscale.com/types/ipproto"
	"tailscale.com/wgengine/filter"
)

var parsedPackets = sync.Pool{New: func() any { return new(packet.Parsed) }}

// Allowed reports whether control's newest access rules let the sender of an IP packet
// open the flow that it is of. It is for packets that did not come from their sender
// directly and so were not seen by the engine's packet filter: those of a peer router.
//
// It is stricter than that filter, which passes every TCP segment other than a SYN, every
// UDP datagram of a flow that was once allowed, and every later fragment. A packet whose
// sender is not in the netmap is refused, as is one that is not the sender's part of a
// TCP or UDP flow or an echo request, and everything while there are no rules.
func (n *Node) Allowed(raw []byte) bool {
	p := parsedPackets.Get().(*packet.Parsed)
	defer parsedPackets.Put(p)
	p.Decode(raw)
	switch p.IPProto {
	case ipproto.TCP:
		p.TCPFlags = packet.TCPSyn
	case ipproto.UDP:
	case ipproto.ICMPv4, ipproto.ICMPv6:
		if !p.IsEchoRequest() {
			return false
		}
	default:
		return false
	}
	return n.engine.allows(p)
}

// AllowsFlow reports whether control's newest access rules let client open a flow of an
// IP protocol to dst, 4via6 not undone.
func (n *Node) AllowsFlow(protocol uint8, client netip.Addr, dst netip.AddrPort) bool {
	rules := n.engine.rules.Load()
	return rules != nil && client.Is4() == dst.Addr().Is4() && n.engine.isOpenPeer(client) &&
		rules.Check(client, dst.Addr(), dst.Port(), ipproto.Proto(protocol)) == filter.Accept
}

func (e *frozenEngine) allows(p *packet.Parsed) bool {
	rules := e.rules.Load()
	return rules != nil && e.isOpenPeer(p.Src.Addr()) && rules.RunIn(p, 0) == filter.Accept
}

// isOpenPeer reports whether addr is that of a peer, or behind one, that may open flows
// to this node at all.
func (e *frozenEngine) isOpenPeer(addr netip.Addr) bool {
	p, ok := e.backend.PeerForIP(addr)
	return ok && !p.IsSelf && !p.Node.IsJailed() && !p.Node.UnsignedPeerAPIOnly()
}

// hasCap reports whether the node with an address has a capability, for rules whose
// sources are capabilities.
func (e *frozenEngine) hasCap(addr netip.Addr, c tailcfg.NodeCapability) bool {
	p, ok := e.backend.PeerForIP(addr)
	return ok && c != "" && !p.Node.UnsignedPeerAPIOnly() && p.Node.HasCap(c) &&
		slices.Contains(p.Node.Addresses().AsSlice(), netip.PrefixFrom(addr, addr.BitLen()))
}

// watchRules calls [Config.RulesChanged] after each change of the rules, from a goroutine
// of its own: the engine learns of them with locks held.
func (n *Node) watchRules() {
	for {
		select {
		case <-n.engine.changed:
			if n.engine.rules.Load() != nil { // without a netmap, flows wait for the next
				n.cfg.RulesChanged()
			}
		case <-n.ctx.Done():
			return
		}
	}
}
