package tailnet

import (
	"net/netip"
	"slices"

	"tailscale.com/tailcfg"
	"tailscale.com/types/ipproto"
	"tailscale.com/wgengine/filter"
)

// AllowsFlow reports whether control's newest access rules let client open a flow of an
// IP protocol to dst, 4via6 not undone. It is for packets that the engine's packet filter
// did not see, and for flows that are open: that filter passes every TCP segment other than
// a SYN, and every UDP datagram of a flow that was once allowed.
//
// A client that is not in the netmap is refused, and everything while there are no rules.
func (n *Node) AllowsFlow(protocol uint8, client netip.Addr, dst netip.AddrPort) bool {
	if !n.Started() {
		return false
	}
	rules := n.engine.rules.Load()
	return rules != nil && client.Is4() == dst.Addr().Is4() && n.engine.isOpenPeer(client) &&
		rules.Check(client, dst.Addr(), dst.Port(), ipproto.Proto(protocol)) == filter.Accept
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
