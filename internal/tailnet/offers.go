package tailnet

import (
	"cmp"
	"net/netip"
	"slices"

	"subnetrouter/internal/secret"
)

// Offer is a route that another node of the tailnet serves.
type Offer struct {
	Node   string
	Prefix netip.Prefix
}

// Offers lists up to most routes of other nodes, as the netmap has them: those
// for which control picked a node, never all that are advertised.
func (n *Node) Offers(most int) []Offer {
	m := n.lb.NetMapWithPeers()
	if m == nil {
		return nil
	}
	var list []Offer
	for _, peer := range m.Peers {
		own := peer.Addresses()
		for _, p := range peer.AllowedIPs().All() {
			if len(list) == most {
				break
			}
			if !slices.Contains(own.AsSlice(), p) {
				list = append(list, Offer{Node: secret.Clean(cmp.Or(peer.ComputedName(), peer.Name()), mostName), Prefix: p})
			}
		}
	}
	return list
}
