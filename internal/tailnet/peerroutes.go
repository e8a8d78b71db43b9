package tailnet

import (
	"cmp"
	"net/netip"
	"slices"

	"subnetrouter/internal/secret"

	"tailscale.com/tailcfg"
)

// PeerRoute is a route that another node of the tailnet serves.
type PeerRoute struct {
	Node   string
	Prefix netip.Prefix
	Tagged bool // the node has a tag of this one, as peer routers do
}

// PeerRoutes lists up to limit routes of other nodes in the netmap: those for which a
// node is primary, not all advertised ones.
func (n *Node) PeerRoutes(limit int) []PeerRoute {
	if !n.Started() {
		return nil
	}
	m := n.lb.NetMapWithPeers()
	if m == nil {
		return nil
	}
	var list []PeerRoute
	for _, peer := range m.Peers {
		own := peer.Addresses()
		tagged := m.SelfNode.Valid() && shareTag(peer.Tags().AsSlice(), m.SelfNode.Tags().AsSlice())
		for _, p := range peer.AllowedIPs().All() {
			if len(list) == limit {
				break
			}
			if !slices.Contains(own.AsSlice(), p) {
				list = append(list, PeerRoute{Node: peerName(peer), Prefix: p, Tagged: tagged})
			}
		}
	}
	return list
}

func peerName(p tailcfg.NodeView) string {
	return secret.Clean(cmp.Or(p.ComputedName(), p.Name()), maxName)
}

// PeerServing returns the name of another node that serves an address by a route, "" if the netmap
// has none. ok is false if that is unknown: there is no netmap, or control no longer updates it.
func (n *Node) PeerServing(a netip.Addr) (node string, ok bool) {
	if s, _ := n.Status(); !n.Started() || !s.Running() {
		return "", false
	}
	m := n.lb.NetMapWithPeers()
	if m == nil {
		return "", false
	}
	return peerServing(m.Peers, a), true
}

// peerServing returns the name of a node that has a route to the address. A node of which control does
// not report whether it is online may be. Default routes do not count: clients that use an exit
// node do not send it the addresses of their routes.
func peerServing(peers []tailcfg.NodeView, a netip.Addr) string {
	for _, peer := range peers {
		if online, known := peer.Online().GetOk(); known && !online {
			continue
		}
		for _, p := range peer.AllowedIPs().All() {
			if p.Bits() > 0 && p.Contains(a) {
				return peerName(peer)
			}
		}
	}
	return ""
}
