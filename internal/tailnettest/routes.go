package tailnettest

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"tailscale.com/tailcfg"
)

// ApproveWhen says at which moment auto-approval of routes happens. Both
// orders exist in the wild, and they differ for the first user of a route.
type ApproveWhen string

const (
	// AtOnce approves a route as soon as it is advertised.
	AtOnce ApproveWhen = "at-once"
	// WhenReachable approves a route once the node has also told its endpoints
	// and its home DERP, so that peers can reach what they are sent to.
	WhenReachable ApproveWhen = "when-reachable"
)

// Policy is what the tailnet's owner decides about nodes and routes.
type Policy struct {
	// AutoApprovers maps a tag to prefixes: a node with the tag may serve the
	// routes that it advertises within them.
	AutoApprovers map[string][]netip.Prefix
	// ApproveWhen defaults to AtOnce. Manual approval is not held up by it.
	ApproveWhen ApproveWhen
	// Failover is how long a primary may be without a map poll before another
	// node is elected. A primary that withdraws or logs out is replaced at once.
	Failover time.Duration
	// RequireDeviceApproval keeps new nodes out until ApproveDevice, unless
	// their auth key is preauthorized.
	RequireDeviceApproval bool
	// Rules are the access rules. Nil lets all nodes reach everything, an empty list
	// nothing.
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

// elect picks a primary for every route of the candidates, who come oldest
// first: the current one as long as it may serve, else the oldest that is
// online. When nobody is, the current one stays: clients that knock at a dead
// door lose nothing, and it may come back.
//
// It also says when to elect again because a grace ends; zero for never.
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
