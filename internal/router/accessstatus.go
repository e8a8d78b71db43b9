package router

import (
	"sync"
	"time"

	"subnetrouter/internal/access"
	"subnetrouter/internal/ops"
	"subnetrouter/internal/secret"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// maxListedDenials bounds the denials that /status lists.
const maxListedDenials = 20

// accessCensus is a count of the rules of all peers.
type accessCensus struct {
	mu                      sync.Mutex // covers all fields; held during a count, which only /status waits for
	version                 uint64
	at                      time.Time
	peers, rules, malformed int
}

// countAge is the age up to which a count is used: the netmap changes without a change of the rules.
const countAge = 10 * time.Second

// count counts the rules, unless the last count still holds.
func (c *accessCensus) count(node grantSource) (peers, rules, malformed int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if version := node.RulesVersion(); c.at.IsZero() || c.version != version || time.Since(c.at) > countAge {
		var values []string
		c.version, c.rules, c.malformed = version, 0, 0
		c.peers, values = node.AccessPeers()
		for _, v := range values {
			p := access.Parse([]string{v})
			c.rules += p.Len()
			c.malformed += len(p.Problems())
		}
		c.at = time.Now()
	}
	return c.peers, c.rules, c.malformed
}

// status returns the part of /status about ROUTER_ACCESS, or nil if it is off.
func (a *accessControl) status() *ops.Access {
	if a == nil {
		return nil
	}
	now := a.targets.Now()
	out := &ops.Access{
		Mode: "grants", Targets: now.Inventory.Len(), LookedUp: now.Found,
		Allowed: counted(a.allowed), Denied: counted(a.denied), Denials: a.denials.latest(),
	}
	if a.report {
		out.Mode = "report"
	}
	if now.Err != nil {
		out.Error = secret.Clean(now.Err.Error(), ops.MaxMessage)
	}
	out.Peers, out.Rules, out.Malformed = a.census.count(a.node)
	return out
}

// counted returns the value of a counter.
func counted(c prometheus.Counter) int64 {
	var m dto.Metric
	if c.Write(&m) != nil {
		return 0
	}
	return int64(m.GetCounter().GetValue())
}
