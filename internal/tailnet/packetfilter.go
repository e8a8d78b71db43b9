package tailnet

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"subnetrouter/internal/secret"

	"tailscale.com/tailcfg"
	"tailscale.com/types/netmap"
	"tailscale.com/wgengine/filter"
)

// FilterEntry is an entry of the packet filter that control sends: it allows protocols from
// sources to ports of targets.
type FilterEntry struct {
	Protocols []uint8 // IP protocol numbers
	Sources   []netip.Prefix
	Caps      []string // nodes with one of these capabilities are sources too
	Targets   []FilterTarget
}

// FilterTarget is a prefix with a range of ports.
type FilterTarget struct {
	Prefix      netip.Prefix
	First, Last uint16
}

// PacketFilter returns the entries of control's newest packet filter; ok is false while there is
// none.
func (n *Node) PacketFilter() (list []FilterEntry, ok bool) {
	if !n.Started() {
		return nil, false
	}
	n.engine.mu.Lock()
	matches, ok := n.engine.backendRules, n.engine.haveRules
	n.engine.mu.Unlock()
	return entriesOf(matches), ok
}

func entriesOf(matches []filter.Match) (list []FilterEntry) {
	for _, m := range matches {
		if len(m.Dsts) == 0 {
			continue
		}
		e := FilterEntry{Sources: m.Srcs}
		for _, p := range m.IPProto.All() {
			e.Protocols = append(e.Protocols, uint8(p))
		}
		for _, c := range m.SrcCaps {
			e.Caps = append(e.Caps, secret.Clean(string(c), maxName))
		}
		for _, d := range m.Dsts {
			e.Targets = append(e.Targets, FilterTarget{d.Net, d.Ports.First, d.Ports.Last})
		}
		list = append(list, e)
	}
	return list
}

// ClientNode is a node that may open flows through this one.
type ClientNode struct {
	Peer
	Addrs []netip.Addr
	Caps  []string // its capabilities
	// Refused reports that the node may open no flows, whatever the packet filter allows.
	Refused bool
}

// FindClients returns up to limit nodes of the netmap that have a name, an address or an owner.
func (n *Node) FindClients(who string, limit int) (list []ClientNode) {
	if !n.Started() {
		return nil
	}
	m := n.lb.NetMapWithPeers()
	if m == nil {
		return nil
	}
	return clientsIn(m, who, limit)
}

func clientsIn(m *netmap.NetworkMap, who string, limit int) (list []ClientNode) {
	addr, _ := netip.ParseAddr(who)
	for _, node := range m.Peers {
		if len(list) == limit {
			break
		}
		user := m.UserProfiles[node.User()]
		p := peerOf(node, tailcfg.UserProfile{LoginName: user.LoginName()})
		label, _, _ := strings.Cut(node.Name(), ".")
		named := slices.ContainsFunc([]string{node.ComputedName(), strings.TrimSuffix(node.Name(), "."), label, p.User}, func(s string) bool {
			return s != "" && strings.EqualFold(s, strings.TrimSuffix(who, "."))
		})
		c := ClientNode{Peer: p, Refused: node.IsJailed() || node.UnsignedPeerAPIOnly()}
		for _, a := range node.Addresses().All() {
			c.Addrs = append(c.Addrs, a.Addr())
			named = named || a.Addr() == addr
		}
		if !named {
			continue
		}
		for name := range node.CapMap().All() {
			c.Caps = append(c.Caps, string(name))
		}
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b ClientNode) int { return cmp.Compare(a.Node, b.Node) })
	return list
}
