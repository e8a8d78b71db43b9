package tailnet

import (
	"cmp"
	"net/netip"

	"subnetrouter/internal/secret"

	"tailscale.com/net/tsaddr"
	"tailscale.com/tailcfg"
)

// Peer identifies a peer.
type Peer struct {
	Node string   // the node's name
	User string   // the owner; "" if the node has tags
	Tags []string // empty if the node has an owner
}

// WhoIs returns the peer with an address, or the zero Peer if there is none.
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

// maxTags bounds the tags of a node that are shown.
const maxTags = 20

func peerOf(node tailcfg.NodeView, user tailcfg.UserProfile) Peer {
	p := Peer{Node: secret.Clean(cmp.Or(node.ComputedName(), node.Name()), maxName)}
	for _, tag := range node.Tags().All() {
		if len(p.Tags) < maxTags {
			p.Tags = append(p.Tags, secret.Clean(tag, maxName))
		}
	}
	if len(p.Tags) == 0 {
		p.User = secret.Clean(user.LoginName, maxName)
	}
	return p
}

// NodeAddress returns the first address of the peer that has addr, or addr if no peer has
// it. Unlike [Node.WhoIs], it takes no lock under which the engine waits for packets, so the
// data path may call it.
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
