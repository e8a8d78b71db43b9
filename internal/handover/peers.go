package handover

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"subnetrouter/internal/routes"

	"github.com/gaissmai/bart"
)

// Node is another node of the tailnet that shares a tag with this router. All of its fields
// come from this router's own netmap, so they are control's statements, not the node's.
type Node struct {
	Name  string
	Addrs []netip.Addr // in the tailnet; messages go to the first
	// Routes are the routes that control gives the node now: clients send packets for
	// them to this node, and accept packets from them from no other node.
	Routes []netip.Prefix
	Online bool
}

// addr returns the address that identifies the node in tables and gets its messages.
func (n *Node) addr() netip.Addr { return n.Addrs[0] }

// maxNodes bounds the nodes that take part in hand-overs. If more nodes have the tag, not all
// of them are routers; nodes with routes take precedence.
const maxNodes = 64

// peers is an immutable view of the netmap: the nodes whose messages count, and the
// destinations for which they do.
type peers struct {
	nodes  []*Node
	byAddr map[netip.Addr]*Node
	// holders maps a route to the nodes to which control gives it. Only the holders of the
	// most specific route to a destination may act for it: clients send to no other. So a
	// route in ownRoutes, which control gives this router, takes precedence over an equal
	// or less specific one in holders.
	holders   bart.Table[[]*Node]
	ownRoutes bart.Lite
}

func newPeers(own []netip.Prefix, list []Node) *peers {
	list = slices.Clone(list)
	list = slices.DeleteFunc(list, func(n Node) bool { return len(n.Addrs) == 0 })
	slices.SortStableFunc(list, func(a, b Node) int {
		return -cmp.Compare(min(len(a.Routes), 1), min(len(b.Routes), 1))
	})
	list = list[:min(len(list), maxNodes)]
	p := &peers{byAddr: map[netip.Addr]*Node{}}
	for _, r := range own {
		p.ownRoutes.Insert(r.Masked())
	}
	for i := range list {
		n := &list[i]
		p.nodes = append(p.nodes, n)
		for _, a := range n.Addrs {
			p.byAddr[a] = n
		}
		for _, r := range n.Routes {
			if r.Bits() == 0 { // an exit node is no router of this VPC
				continue
			}
			have, _ := p.holders.Get(r.Masked())
			p.holders.Insert(r.Masked(), append(have, n))
		}
	}
	return p
}

// holdersOf returns the nodes to which control gives the most specific route to a
// destination, and the length of that route. If that is one of this router's own routes, the
// list is empty.
func (p *peers) holdersOf(dst netip.Addr) (list []*Node, bits int) {
	host := netip.PrefixFrom(dst, dst.BitLen())
	route, list, ok := p.holders.LookupPrefixLPM(host)
	if ok {
		bits = route.Bits()
	}
	if own, ok := p.ownRoutes.LookupPrefixLPM(host); ok && own.Bits() >= bits {
		return nil, own.Bits()
	}
	return list, bits
}

// holds reports whether n is one of the holders of the route to dst.
func (p *peers) holds(n *Node, dst netip.Addr) bool {
	list, _ := p.holdersOf(dst)
	return slices.ContainsFunc(list, func(h *Node) bool { return h.addr() == n.addr() })
}

// gained reports whether an online node holds a route that contains or equals route, and that
// it did not hold before.
func (p *peers) gained(route netip.Prefix, before *peers) bool {
	return slices.ContainsFunc(p.nodes, func(n *Node) bool {
		var had []netip.Prefix
		if b := before.byAddr[n.addr()]; b != nil {
			had = b.Routes
		}
		return n.Online && slices.ContainsFunc(n.vpcRoutes(), func(h netip.Prefix) bool {
			return routes.Covers(h, route) && !slices.Contains(had, h)
		})
	})
}

// vpcRoutes returns the node's routes without the default routes of an exit node.
func (n *Node) vpcRoutes() []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(n.Routes), func(r netip.Prefix) bool { return r.Bits() == 0 })
}

// lostRouteTTL is the time for which a drain that a node announces covers a route that control
// has taken from the node: control may be faster than the announcement.
const lostRouteTTL = 10 * time.Second

// lostRoute is a route that control took from a node, and the time of that.
type lostRoute struct {
	route netip.Prefix
	at    time.Time
}

// SetPeers replaces the view of the netmap: the routes that control gives this router, and
// the nodes that share a tag with it, the newest first. Call it on each change. SetPeers
// keeps list's slices, which must not change afterwards.
func (c *Coordinator) SetPeers(own []netip.Prefix, list []Node) {
	next := newPeers(own, list)
	now := time.Now()
	if len(list) > maxNodes && !c.loggedTooMany.Swap(true) {
		c.cfg.Logger.Warn("too many nodes share a tag with this router; the oldest without routes take no part in hand-overs",
			"nodes", len(list), "limit", maxNodes, "fix", "give the routers a tag that no other nodes have")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.peers.Swap(next)
	for addr, routes := range c.lostRoutes {
		routes = slices.DeleteFunc(routes, func(l lostRoute) bool { return now.Sub(l.at) > lostRouteTTL })
		if c.lostRoutes[addr] = routes; len(routes) == 0 {
			delete(c.lostRoutes, addr)
		}
	}
	for _, n := range before.nodes {
		present := next.byAddr[n.addr()]
		for _, p := range n.vpcRoutes() {
			lost := present != nil && !slices.Contains(present.Routes, p)
			if lost && len(c.lostRoutes) < maxNodes && len(c.lostRoutes[n.addr()]) < maxDrainRoutes {
				c.lostRoutes[n.addr()] = append(c.lostRoutes[n.addr()], lostRoute{p, now})
			}
		}
	}
}

// routesOf returns the routes that control gives a node, or took from it within lostRouteTTL.
// The caller holds c.mu.
func (c *Coordinator) routesOf(n *Node) []netip.Prefix {
	list := n.vpcRoutes()
	for _, l := range c.lostRoutes[n.addr()] {
		if time.Since(l.at) <= lostRouteTTL {
			list = append(list, l.route)
		}
	}
	return list
}

// Takeover returns a function that reports whether control has given each of these routes to
// another online node that shares a tag with this router since the call of Takeover.
func (c *Coordinator) Takeover(all []netip.Prefix) (done func() bool) {
	before := c.peers.Load()
	return func() bool {
		now := c.peers.Load()
		return !slices.ContainsFunc(all, func(p netip.Prefix) bool { return !now.gained(p, before) })
	}
}
