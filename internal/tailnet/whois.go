package tailnet

import (
	"cmp"
	"net/netip"

	"subnetrouter/internal/secret"

	"tailscale.com/net/tsaddr"
	"tailscale.com/tailcfg"
)

// Peer is who a tailnet address belongs to.
type Peer struct {
	Node string   // its name
	User string   // who owns it; "" if it has tags
	Tags []string // what owns it otherwise
}

// WhoIs names the peer with this address; zero if there is none (any more).
func (n *Node) WhoIs(addr netip.Addr) Peer {
	if !n.Started() {
		return Peer{}
	}
	node, user, ok := n.lb.WhoIs("", netip.AddrPortFrom(addr, 0))
	if !ok {
		return Peer{}
	}
	return peerOf(node, user)
}

// mostTags is how many tags of a node are shown.
const mostTags = 20

func peerOf(node tailcfg.NodeView, user tailcfg.UserProfile) Peer {
	p := Peer{Node: secret.Clean(cmp.Or(node.ComputedName(), node.Name()), mostName)}
	for _, tag := range node.Tags().All() {
		if len(p.Tags) < mostTags {
			p.Tags = append(p.Tags, secret.Clean(tag, mostName))
		}
	}
	if len(p.Tags) == 0 {
		p.User = secret.Clean(user.LoginName, mostName)
	}
	return p
}

// NodeAddress is the first address of the peer that addr is of, or addr itself where
// it is no node's. Unlike [Node.WhoIs] it takes no lock under which the engine waits
// for packets: the data path may ask.
func (n *Node) NodeAddress(addr netip.Addr) netip.Addr {
	if !tsaddr.IsTailscaleIP(addr) || !n.Started() {
		return addr
	}
	peer, ok := n.lb.PeerForIP(addr)
	if !ok || peer.Node.Addresses().Len() == 0 {
		return addr
	}
	return peer.Node.Addresses().At(0).Addr()
}
