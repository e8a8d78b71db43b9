package handover

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/gaissmai/bart"

	"subnetrouter/internal/routes"
)

// Node is another node of the tailnet with a tag of this router's. All fields are from
// this router's own netmap, so control vouches for them.
type Node struct {
	Name  string
	Addrs []netip.Addr // in the tailnet; messages go to the first
	// Routes are those that control gives the node now: clients send packets for them to
	// it, and accept packets from them from no other node.
	Routes []netip.Prefix
	Online bool
}

// addr stands for the node in tables and is where messages to it go.
func (n *Node) addr() netip.Addr { return n.Addrs[0] }

// mostNodes bounds the nodes that take part. A tag of more nodes than that is not one of
// routers only; those with routes come first.
const mostNodes = 64

// peers is an immutable view of the netmap: who may speak, and for which destinations.
type peers struct {
	nodes  []*Node
	byAddr map[netip.Addr]*Node
	// holders finds the nodes that hold the most specific route to a destination. A
	// less specific one gives no right to it: clients do not send there. So it must not
	// be less specific than one of own, the routes that control gives this router.
	holders bart.Table[[]*Node]
	own     bart.Lite
}

func newPeers(own []netip.Prefix, list []Node) *peers {
	list = slices.Clone(list)
	list = slices.DeleteFunc(list, func(n Node) bool { return len(n.Addrs) == 0 })
	slices.SortStableFunc(list, func(a, b Node) int {
		return -cmp.Compare(min(len(a.Routes), 1), min(len(b.Routes), 1))
	})
	list = list[:min(len(list), mostNodes)]
	p := &peers{byAddr: map[netip.Addr]*Node{}}
	for _, r := range own {
		p.own.Insert(r.Masked())
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

// holdersOf lists the nodes to which control gives the most specific route to a destination,
// and the length of that route. The list is empty, and the length that of its own route, if
// this router is the one.
func (p *peers) holdersOf(dst netip.Addr) (list []*Node, bits int) {
	host := netip.PrefixFrom(dst, dst.BitLen())
	route, list, ok := p.holders.LookupPrefixLPM(host)
	if ok {
		bits = route.Bits()
	}
	if own, ok := p.own.LookupPrefixLPM(host); ok && own.Bits() >= bits {
		return nil, own.Bits()
	}
	return list, bits
}

func (p *peers) holds(n *Node, dst netip.Addr) bool {
	list, _ := p.holdersOf(dst)
	return slices.ContainsFunc(list, func(h *Node) bool { return h.addr() == n.addr() })
}

// covers reports whether an online node holds a route, as it is or as part of a larger one,
// that it did not hold before.
func (p *peers) covers(route netip.Prefix, before *peers) bool {
	return slices.ContainsFunc(p.nodes, func(n *Node) bool {
		var had []netip.Prefix
		if b := before.byAddr[n.addr()]; b != nil {
			had = b.Routes
		}
		return n.Online && slices.ContainsFunc(n.routes(), func(h netip.Prefix) bool {
			return routes.Covers(h, route) && !slices.Contains(had, h)
		})
	})
}

// routes are the node's without the default routes of an exit node.
func (n *Node) routes() []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(n.Routes), func(r netip.Prefix) bool { return r.Bits() == 0 })
}

// lateWithin is how long after control took a route from a node the node's announcement of
// its drain still counts for it: control may be faster than the announcement.
const lateWithin = 10 * time.Second

// lost is a route that control took from a node.
type lost struct {
	route netip.Prefix
	at    time.Time
}

// SetPeers replaces the view of the netmap: the routes that control gives this router, and
// the nodes that share a tag with it, the newest first. Call it on each change.
func (r *Coordinator) SetPeers(own []netip.Prefix, list []Node) {
	next := newPeers(own, list)
	now := time.Now()
	if len(list) > mostNodes && !r.crowded.Swap(true) {
		r.cfg.Logger.Warn("too many nodes share a tag with this router: the oldest without routes take no part in hand-overs",
			"nodes", len(list), "limit", mostNodes, "fix", "give the routers a tag of their own")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.peers.Swap(next)
	for addr, routes := range r.lost {
		routes = slices.DeleteFunc(routes, func(l lost) bool { return now.Sub(l.at) > lateWithin })
		if r.lost[addr] = routes; len(routes) == 0 {
			delete(r.lost, addr)
		}
	}
	for _, n := range before.nodes {
		still := next.byAddr[n.addr()]
		for _, p := range n.routes() {
			gone := still != nil && !slices.Contains(still.Routes, p)
			if gone && len(r.lost) < mostNodes && len(r.lost[n.addr()]) < mostRoutes {
				r.lost[n.addr()] = append(r.lost[n.addr()], lost{p, now})
			}
		}
	}
}

// routesOf lists the routes that control gives a node, or took from it just now. The
// caller holds r.mu.
func (r *Coordinator) routesOf(n *Node) []netip.Prefix {
	list := n.routes()
	for _, l := range r.lost[n.addr()] {
		if time.Since(l.at) <= lateWithin {
			list = append(list, l.route)
		}
	}
	return list
}

// Takeover returns a function that reports whether control has given each of these routes to
// another online node with a tag of this router's since Takeover was called.
func (r *Coordinator) Takeover(all []netip.Prefix) (done func() bool) {
	before := r.peers.Load()
	return func() bool {
		now := r.peers.Load()
		return !slices.ContainsFunc(all, func(p netip.Prefix) bool { return !now.covers(p, before) })
	}
}
