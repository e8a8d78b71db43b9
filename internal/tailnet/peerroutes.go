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
}

// PeerRoutes lists up to most routes of other nodes, as the netmap has them: those
// for which control picked a node, never all that are advertised.
func (n *Node) PeerRoutes(most int) []PeerRoute {
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
		for _, p := range peer.AllowedIPs().All() {
			if len(list) == most {
				break
			}
			if !slices.Contains(own.AsSlice(), p) {
				list = append(list, PeerRoute{Node: secret.Clean(cmp.Or(peer.ComputedName(), peer.Name()), mostName), Prefix: p})
			}
		}
	}
	return list
}
