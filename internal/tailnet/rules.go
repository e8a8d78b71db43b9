package tailnet

import (
	"net/netip"
	"slices"

	"tailscale.com/tailcfg/nodecap"
	"tailscale.com/types/ipproto"
	"tailscale.com/wgengine/filter"
)

// AllowsFlow reports whether control's newest access rules allow client to open a flow of
// an IP protocol to dst, which may be a 4via6 address. It is for packets that did not pass
// the engine's packet filter, and for open flows: that filter accepts every TCP segment
// other than a SYN, and every UDP datagram of a flow that was allowed before.
//
// AllowsFlow returns false for a client that is not in the netmap, and while there are no
// rules.
func (n *Node) AllowsFlow(protocol uint8, client netip.Addr, dst netip.AddrPort) bool {
	if !n.Started() {
		return false
	}
	rules := n.engine.rules.Load()
	return rules != nil && client.Is4() == dst.Addr().Is4() && n.engine.isOpenPeer(client) &&
		rules.Check(client, dst.Addr(), dst.Port(), ipproto.Proto(protocol)) == filter.Accept
}

// isOpenPeer reports whether addr is the address of a peer, or behind a peer, that may open
// flows to this node.
func (e *frozenEngine) isOpenPeer(addr netip.Addr) bool {
	p, ok := e.backend.PeerForIP(addr)
	return ok && !p.IsSelf && !p.Node.IsJailed() && !p.Node.UnsignedPeerAPIOnly()
}

// hasCap reports whether the node with an address has a capability. Rules may have
// capabilities as sources.
func (e *frozenEngine) hasCap(addr netip.Addr, c nodecap.Cap) bool {
	p, ok := e.backend.PeerForIP(addr)
	return ok && c != "" && !p.Node.UnsignedPeerAPIOnly() && p.Node.HasCap(c) &&
		slices.Contains(p.Node.Addresses().AsSlice(), netip.PrefixFrom(addr, addr.BitLen()))
}

// watchRules calls Config.RulesChanged after each change of the rules, until the node
// closes. It runs on a separate goroutine, because the engine receives rules with locks held.
func (n *Node) watchRules() {
	for {
		select {
		case <-n.engine.rulesChanged:
			if n.engine.rules.Load() != nil { // without a netmap, flows stay until the next one
				n.cfg.RulesChanged()
			}
		case <-n.ctx.Done():
			return
		}
	}
}
