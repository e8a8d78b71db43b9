package tailnettest

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"tailscale.com/tailcfg"
)

// ApproveWhen is the moment at which routes are auto-approved. Control servers differ in
// it, and it matters to the first user of a route.
type ApproveWhen string

const (
	// AtOnce approves a route as soon as it is advertised.
	AtOnce ApproveWhen = "at-once"
	// WhenReachable approves a route once the node has also reported its endpoints and
	// its home DERP, so that peers can reach the node.
	WhenReachable ApproveWhen = "when-reachable"
)

// Policy is the tailnet's policy for nodes and routes.
type Policy struct {
	// AutoApprovers maps a tag to prefixes: a node with the tag may serve the
	// routes that it advertises within them.
	AutoApprovers map[string][]netip.Prefix
	// ApproveWhen applies to automatic approval only. Default: AtOnce.
	ApproveWhen ApproveWhen
	// Failover is the time for which a primary may be without a map poll before another
	// node is elected. A primary that withdraws or logs out is replaced at once.
	Failover time.Duration
	// RequireDeviceApproval keeps new nodes unauthorized until ApproveDevice, unless
	// their auth key is preauthorized.
	RequireDeviceApproval bool
	// AppConnectors has domains that nodes with the role of an app connector resolve and route.
	AppConnectors []AppConnector
	// Rules are the access rules. Nil allows everything, an empty list nothing.
	Rules []Rule
}

func (p Policy) check() error {
	switch p.ApproveWhen {
	case "", AtOnce, WhenReachable:
		return nil
	}
	return fmt.Errorf("checking the policy: approve when %q: want %q or %q", p.ApproveWhen, AtOnce, WhenReachable)
}

// autoApproves reports whether a node with these tags may serve route.
func (p Policy) autoApproves(tags []string, reachable bool, route netip.Prefix) bool {
	if p.ApproveWhen == WhenReachable && !reachable {
		return false
	}
	return slices.ContainsFunc(tags, func(tag string) bool {
		return slices.ContainsFunc(p.AutoApprovers[tag], func(within netip.Prefix) bool {
			return within.Bits() <= route.Bits() && within.Contains(route.Addr())
		})
	})
}

// isExit reports whether a route is one of an exit node, and isSubnet whether it is not.
func isExit(p netip.Prefix) bool   { return p.Bits() == 0 }
func isSubnet(p netip.Prefix) bool { return !isExit(p) }

// candidate is a node that may serve routes.
type candidate struct {
	id      tailcfg.NodeID
	routes  []netip.Prefix // approved
	online  bool
	offline time.Time // since when, if not online
}

func (c candidate) mayServe(now time.Time, grace time.Duration) bool {
	return c.online || now.Before(c.offline.Add(grace))
}

// elect returns a primary for every route of the candidates, which are sorted oldest
// first: the current one while it may serve, else the oldest that is online. If none is
// online, the current one stays, since it may come back.
//
// again is the time of the next election, when a grace ends; zero means never.
func elect(now time.Time, grace time.Duration, candidates []candidate, current map[netip.Prefix]tailcfg.NodeID) (next map[netip.Prefix]tailcfg.NodeID, again time.Time) {
	serving := map[netip.Prefix][]candidate{}
	for _, c := range candidates {
		for _, route := range c.routes {
			serving[route] = append(serving[route], c)
		}
	}
	next = map[netip.Prefix]tailcfg.NodeID{}
	for route, servers := range serving {
		holder := slices.IndexFunc(servers, func(c candidate) bool { return c.id == current[route] })
		if holder >= 0 {
			next[route] = current[route]
			if c := servers[holder]; c.mayServe(now, grace) {
				if end := c.offline.Add(grace); !c.online && (again.IsZero() || end.Before(again)) {
					again = end
				}
				continue
			}
		}
		if i := slices.IndexFunc(servers, func(c candidate) bool { return c.online }); i >= 0 {
			next[route] = servers[i].id
		}
	}
	return next, again
}
