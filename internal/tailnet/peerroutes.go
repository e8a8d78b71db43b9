package tailnet

import (
	"cmp"
	"net/netip"
	"slices"

	"subnetrouter/internal/secret"
)

// PeerRoute is a route that another node of the tailnet serves.
type PeerRoute struct {
	Node   string
	Prefix netip.Prefix
	Online bool // as control reports the node
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
				list = append(list, PeerRoute{Node: secret.Clean(cmp.Or(peer.ComputedName(), peer.Name()), maxName), Prefix: p, Online: peer.Online().Get(), Tagged: tagged})
			}
		}
	}
	return list
}
