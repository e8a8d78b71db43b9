package tailnet

import (
	"net/netip"
	"slices"
	"sync"

	"tailscale.com/net/tsaddr"
	"tailscale.com/types/appctype"
	"tailscale.com/util/eventbus"
)

// ExitNode is the state of the role of an exit node.
type ExitNode struct {
	Advertised bool
	Approved   bool // the tailnet lets clients use this node as their exit node
}

// ExitRoutes returns the two routes that make a node an exit node.
func ExitRoutes() []netip.Prefix { return tsaddr.ExitRoutes() }

// servesPeers reports whether a role needs the peer API.
func (c *Config) servesPeers() bool { return c.ExitNode || c.AppConnector }

// MaxLearned bounds the routes that an app connector learns. A node that advertises far more
// makes the netmap of each client large.
const MaxLearned = 1000

// roleRoutes returns the routes of the roles, sorted. They take no part in the hand-over of
// routes: a client chooses its exit node itself, and a peer router has not learned the same
// addresses. So they stay advertised while the node's own routes are held back or withdrawn.
func (n *Node) roleRoutes() []netip.Prefix {
	var out []netip.Prefix
	if n.cfg.ExitNode {
		out = ExitRoutes()
	}
	if n.cfg.AppConnector {
		out = append(out, n.learned.list()...)
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return slices.Compact(out)
}

// learnedRoutes are the routes of an app connector: the addresses of its domains, and the
// routes that the policy has for it.
type learnedRoutes struct {
	mu     sync.Mutex
	routes []netip.Prefix // in the order in which they were learned, at most MaxLearned
}

// watchLearned follows the engine's app connector. The engine adds what it learns to its
// preferences, which the next announcement of this package replaces: hence a set of its own.
func (n *Node) watchLearned(bus *eventbus.Bus) {
	client := bus.Client("subnetrouter.learned")
	eventbus.SubscribeFunc(client, func(u appctype.RouteUpdate) {
		if n.learned.update(u.Advertise, u.Unadvertise) {
			n.wakeAnnouncer()
		}
	})
	n.wg.Go(func() {
		<-n.ctx.Done()
		client.Close()
	})
}

// update adds and removes routes, and reports whether any changed.
func (l *learnedRoutes) update(add, remove []netip.Prefix) (changed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := len(l.routes)
	l.routes = slices.DeleteFunc(l.routes, func(p netip.Prefix) bool { return slices.Contains(remove, p) })
	changed = len(l.routes) != before
	for _, p := range add {
		if p = p.Masked(); p.Bits() > 0 && len(l.routes) < MaxLearned && !slices.Contains(l.routes, p) {
			l.routes, changed = append(l.routes, p), true
		}
	}
	return changed
}

func (l *learnedRoutes) list() []netip.Prefix {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.routes)
}

// full reports whether no more routes can be learned.
func (l *learnedRoutes) full() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.routes) >= MaxLearned
}

// containsAll reports whether list has each of the prefixes.
func containsAll(list, prefixes []netip.Prefix) bool {
	return !slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return !slices.Contains(list, p) })
}
