package router

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"subnetrouter/internal/access"
	"subnetrouter/internal/bootstrap"
	"subnetrouter/internal/bootstrap/targets"
	"subnetrouter/internal/config"
	"subnetrouter/internal/forward"
	"subnetrouter/internal/packet"
	"subnetrouter/internal/problem"
	"subnetrouter/internal/routes"
	"subnetrouter/internal/tailnet"
	"subnetrouter/internal/why"

	"github.com/prometheus/client_golang/prometheus"
)

// accessControl decides which targets clients may reach, by the targets' AWS identity (ROUTER_ACCESS). The
// decisions are those of package access; their inputs are the grants in the node's rules and the last good
// inventory of targets.
type accessControl struct {
	report   bool // allow everything
	cut      bool // end open flows that are no longer allowed
	node     grantSource
	targets  *targets.Follower
	changed  func() // called after each look-up of targets
	flowLog  *flowLog
	denials  *denialLog
	policies policyCache
	census   accessCensus // for /status

	allowed, denied, malformed prometheus.Counter
}

// grantSource is the part of [tailnet.Node] that has the grants.
type grantSource interface {
	AccessRules(client netip.Addr) []string
	AccessPeers() (peers int, values []string)
	RulesVersion() uint64
}

// newAccess returns the control, or nil if ROUTER_ACCESS is off.
func newAccess(cfg config.Config, boot *bootstrap.Bootstrap, steps *stepMetrics, node *tailnet.Node, recheck func(), flows *flowLog, log *slog.Logger, reg prometheus.Registerer) *accessControl {
	if cfg.Access == config.AccessOff {
		return nil
	}
	a := &accessControl{report: cfg.Access == config.AccessReport, cut: cfg.AccessCut, node: node, changed: recheck, flowLog: flows}
	a.denials = newDenialLog(log, a.report, node.WhoIs, a.explain)
	a.targets = boot.FollowTargets(targets.Follow{
		Every: cfg.Refresh, Apply: a.apply,
		Around: func(look func() error) error { return steps.time("targets", look) },
	})
	decisions := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "router_access_decisions_total",
		Help: "Decisions of ROUTER_ACCESS about new flows and echo requests; with report, denied ones are let through.",
	}, []string{"result"})
	a.allowed, a.denied = decisions.WithLabelValues("allowed"), decisions.WithLabelValues("denied")
	a.malformed = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "router_access_malformed_rules_total", Help: "Rules in grants that are ignored because of an error, counted when a client's rules are read for the first time, and after each change of them.",
	})
	reg.MustRegister(decisions, a.malformed, a.denials.dropped,
		gauge("router_access_targets", "Network interfaces that the last good look-up for ROUTER_ACCESS found.", func() float64 {
			return float64(a.targets.Now().Inventory.Len())
		}),
		gauge("router_access_lookup_timestamp_seconds", "Time of the last successful look-up for ROUTER_ACCESS; 0 is never.", func() float64 {
			return timestamp(a.targets.Now().Found)
		}))
	return a
}

// apply lets a change of the targets act on open flows.
func (a *accessControl) apply() {
	if a.cut {
		a.changed()
	}
}

// run follows the targets and logs denials until ctx ends.
func (a *accessControl) run(ctx context.Context) error {
	if a == nil {
		return nil
	}
	logged := make(chan struct{})
	go func() { defer close(logged); a.denials.run(ctx) }()
	a.targets.Run(ctx)
	<-logged
	return nil
}

// configure sets the questions that the data path asks.
func (a *accessControl) configure(cfg *forward.Config) {
	if a == nil {
		return
	}
	cfg.Admit = a.admit
	if a.cut && !a.report {
		cfg.StillAdmits = func(protocol uint8, client netip.Addr, target netip.AddrPort) bool {
			return a.decide(protocol, client, target) != nil
		}
	}
}

// noRule is the rule in the log of a flow that no rule allows.
const noRule = "none"

// admit implements [forward.Config.Admit].
func (a *accessControl) admit(protocol uint8, client, target netip.AddrPort) forward.Admission {
	if rule := a.decide(protocol, client.Addr(), target); rule != nil {
		a.allowed.Inc()
		return forward.Admission{Rule: rule.String()}
	}
	a.denied.Inc()
	f := flowOf(protocol, target)
	if a.denials.add(denial{client.Addr(), f}) && !a.report && a.flowLog != nil {
		a.flowLog.finished(forward.Flow{
			Protocol: forwardProtocols[f.Protocol], Client: client, Address: target, Target: target, Opened: time.Now(), Rule: noRule, End: "denied",
		})
	}
	return forward.Admission{Refused: !a.report, Rule: noRule}
}

// decide returns the rule that allows a flow, or nil.
func (a *accessControl) decide(protocol uint8, client netip.Addr, target netip.AddrPort) *access.Rule {
	return a.policy(client).Decide(a.targets.Now().Inventory, flowOf(protocol, target))
}

// explain explains a decision.
func (a *accessControl) explain(client netip.Addr, f access.Flow) access.Explanation {
	return a.policy(client).Explain(a.targets.Now().Inventory, f)
}

// why returns the decisions about a flow from each client that the tailnet lets through, or nil if there is no control.
func (a *accessControl) why(f why.Facts) *why.Access {
	if a == nil {
		return nil
	}
	flow := access.Flow{Target: innerTarget(netip.AddrPortFrom(f.Target, f.Question.Port))}
	switch f.Question.Protocol {
	case why.TCP:
		flow.Protocol = access.TCP
	case why.UDP:
		flow.Protocol = access.UDP
	case why.ICMP:
		flow.Protocol = access.ICMP
	}
	inventory := a.targets.Now().Inventory
	out := &why.Access{Report: a.report, Target: inventory.Describe(f.Target)}
	for _, c := range f.Admitted() {
		for _, addr := range c.Addrs {
			if addr.Is4() == f.Address.Is4() { // grants of a family name the router's address of that family
				e := a.explain(addr, flow)
				out.Decisions = append(out.Decisions, why.Decision{Node: c.Node, Allowed: e.Allowed, Rule: e.Rule, Reasons: e.Reasons})
			}
		}
	}
	return out
}

func (a *accessControl) policy(client netip.Addr) *access.Policy {
	return a.policies.get(client, a.node.RulesVersion(), a.node.AccessRules, func(values []string) *access.Policy {
		p := access.Parse(values)
		a.malformed.Add(float64(len(p.Problems())))
		a.denials.malformed(p.Problems())
		return p
	})
}

func innerTarget(target netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(routes.Inner(target.Addr()), target.Port())
}

var forwardProtocols = map[access.Protocol]forward.Protocol{access.TCP: forward.TCP, access.UDP: forward.UDP, access.ICMP: forward.ICMP}

// flowOf returns the flow to decide about. Behind a NAT64 gateway its target is the IPv4 address, as it is with 4via6.
func flowOf(protocol uint8, target netip.AddrPort) access.Flow {
	f := access.Flow{Protocol: access.ICMP, Target: innerTarget(target)}
	switch protocol {
	case packet.ProtoTCP:
		f.Protocol = access.TCP
	case packet.ProtoUDP:
		f.Protocol = access.UDP
	}
	return f
}

// policyCache keeps the policies of clients. A policy is compared with the rules after each change of them, and
// parsed if the client's own have changed.
type policyCache struct {
	mu       sync.Mutex // not held while rules are read or parsed
	policies map[netip.Addr]cachedPolicy
}

// cachedPolicy is the policy of rules with a version, with the values that it was parsed from.
type cachedPolicy struct {
	version uint64
	since   time.Time
	values  []string
	policy  *access.Policy
}

// Bounds of the cache: a peer may have addresses behind it, and the node's own addresses, which grants name,
// change without a change of the rules.
const (
	maxPolicies = 10_000
	policyAge   = 5 * time.Second
)

// get returns a client's policy. version is that of the rules before the call, so that a policy of older rules
// never counts as one of newer.
func (c *policyCache) get(client netip.Addr, version uint64, read func(netip.Addr) []string, parse func([]string) *access.Policy) *access.Policy {
	now := time.Now()
	c.mu.Lock()
	old, known := c.policies[client]
	c.mu.Unlock()
	if known && old.version == version && now.Sub(old.since) <= policyAge {
		return old.policy
	}
	found := cachedPolicy{version: version, since: now, values: read(client), policy: old.policy}
	if !known || !slices.Equal(found.values, old.values) {
		found.policy = parse(found.values)
	}
	c.put(client, found)
	return found.policy
}

// put keeps a policy, unless there is one of newer rules. In a full cache it takes the place of any other.
func (c *policyCache) put(client netip.Addr, p cachedPolicy) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old, known := c.policies[client]
	switch {
	case known && old.version > p.version:
		return
	case !known && len(c.policies) >= maxPolicies:
		for victim := range c.policies {
			delete(c.policies, victim)
			break
		}
	case c.policies == nil:
		c.policies = map[netip.Addr]cachedPolicy{}
	}
	c.policies[client] = p
}

// problem returns the problem of the look-up of targets, or nil. unknown reports that none has succeeded yet.
func (a *accessControl) problem() (p *problem.Problem, unknown bool) {
	if a == nil {
		return nil, false
	}
	now := a.targets.Now()
	if now.Err != nil {
		found := *problem.Of(now.Err)
		found.Code = problem.TargetsUnknown
		p = &found
	}
	return p, now.Found.IsZero()
}

// addAccessReasons adds the reason why a router with ROUTER_ACCESS=grants would refuse flows that it should allow.
func (r *Router) addAccessReasons(add func(*problem.Problem)) {
	p, unknown := r.access.problem()
	switch {
	case !unknown || r.access.report:
	case p != nil:
		add(p)
	default:
		add(&problem.Problem{Code: problem.Starting, Message: "the targets of ROUTER_ACCESS are being looked up"})
	}
}

// accessWarning returns a look-up that fails although the router is ready, or nil.
func (r *Router) accessWarning() *problem.Problem {
	p, unknown := r.access.problem()
	if p == nil || unknown && !r.access.report {
		return nil
	}
	return p
}

// accessGrants returns an example of the grants to clients of routers with a configuration, or nil without
// ROUTER_ACCESS. vpc may be unknown.
func accessGrants(cfg config.Config, vpc string, advertise []netip.Prefix) *Grants {
	if cfg.Access == config.AccessOff {
		return nil
	}
	const port = "tcp:5432"
	rule := struct {
		VPCs   []string          `json:"vpcs,omitempty"`
		Groups []string          `json:"securityGroups"`
		Tags   map[string]string `json:"tags"`
		Ports  []string          `json:"ports"`
	}{nil, []string{"databases"}, map[string]string{"env": "dev"}, []string{port}}
	if vpc != "" {
		rule.VPCs = []string{vpc}
	}
	value, err := json.Marshal(rule)
	if err != nil {
		return nil // strings can be encoded
	}
	src := []string{"group:developers"}
	return &Grants{Grants: []Grant{
		{Src: src, Dst: routes.Strings(advertise), IP: []string{port}},
		{Src: src, Dst: cfg.Credential.Tags, App: map[string][]json.RawMessage{tailnet.AWSCapability: {value}}},
	}}
}
