package tailnet

import (
	"net/netip"
	"slices"

	"tailscale.com/net/tsaddr"
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

// roleRoutes returns the routes of the roles, sorted. They take no part in the hand-over of
// routes: a client chooses its exit node itself, and a peer router has not learned the same
// addresses. So they stay advertised while the node's own routes are held back or withdrawn.
func (n *Node) roleRoutes() []netip.Prefix {
	var out []netip.Prefix
	if n.cfg.ExitNode {
		out = ExitRoutes()
	}
	if n.cfg.AppConnector {
		n.mu.Lock()
		own := n.desired // also while they are not advertised: a part of one must not stay here then
		n.mu.Unlock()
		out = append(out, n.connector.list(own)...)
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return slices.Compact(out)
}

// containsAll reports whether list has each of the prefixes.
func containsAll(list, prefixes []netip.Prefix) bool {
	return !slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return !slices.Contains(list, p) })
}
