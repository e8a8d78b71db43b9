package tailnet

import (
	"cmp"
	"net/netip"
	"sync"
	"time"

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

// User is the owner of a node, exactly as control has it.
type User struct {
	Login, Name, Picture string // Picture is a URL
}

// Owner returns the owner of the peer with an address; the zero User if the peer has tags, or there is none.
func (n *Node) Owner(addr netip.Addr) User {
	if !n.Started() {
		return User{}
	}
	node, user, ok := n.lb.WhoIs("", netip.AddrPortFrom(addr, 0))
	if !ok || node.IsTagged() {
		return User{}
	}
	return User{user.LoginName, user.DisplayName, user.ProfilePicURL}
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

// users caches the logins of users: the netmap is copied to read them.
type users struct {
	mu     sync.Mutex
	logins map[tailcfg.UserID]string
	read   time.Time
}

// Logins are read again for a user without one after usersEvery, and for all after usersAge.
const (
	usersEvery = time.Second
	usersAge   = time.Minute
)

// Identify is WhoIs without a lock under which the engine waits for packets, so the data path's workers may
// call it. A user who has just appeared may lack a login for a second.
func (n *Node) Identify(addr netip.Addr) Peer {
	if !n.Started() {
		return Peer{}
	}
	p, ok := n.lb.PeerForIP(addr)
	if !ok {
		return Peer{}
	}
	return peerOf(p.Node, tailcfg.UserProfile{LoginName: n.loginOf(p.Node.User())})
}

func (n *Node) loginOf(id tailcfg.UserID) string {
	n.users.mu.Lock()
	defer n.users.mu.Unlock()
	login, known := n.users.logins[id]
	if age := time.Since(n.users.read); known && age < usersAge || age < usersEvery {
		return login
	}
	n.users.logins, n.users.read = map[tailcfg.UserID]string{}, time.Now()
	if nm := n.lb.NetMapWithPeers(); nm != nil {
		for id, profile := range nm.UserProfiles {
			n.users.logins[id] = profile.LoginName()
		}
	}
	return n.users.logins[id]
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
