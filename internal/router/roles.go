package router

import (
	"encoding/json"
	"net/netip"
	"slices"

	"subnetrouter/internal/config"
	"subnetrouter/internal/dns"
	"subnetrouter/internal/limits"
	"subnetrouter/internal/ops"
	"subnetrouter/internal/routes"
	"subnetrouter/internal/tailnet"

	"github.com/prometheus/client_golang/prometheus"
)

// The roles besides that of a subnet router, as /status, the plan and the metrics name them.
const (
	exitNodeRole     = "exit_node"
	appConnectorRole = "app_connector"
	peerRelayRole    = "peer_relay"
)

// roles returns the roles that are on.
func roles(cfg config.Config) []string {
	var out []string
	if cfg.ExitNode {
		out = append(out, exitNodeRole)
	}
	if cfg.AppConnector {
		out = append(out, appConnectorRole)
	}
	if cfg.PeerRelay != 0 {
		out = append(out, peerRelayRole)
	}
	return out
}

// Policy is a part of a tailnet policy file.
type Policy struct {
	AutoApprovers *Approvers `json:"autoApprovers,omitempty"`
	NodeAttrs     []NodeAttr `json:"nodeAttrs,omitempty"`
	Grants        []Grant    `json:"grants,omitempty"`
}

// Approvers are the tags whose nodes get routes, or the role of an exit node, without a manual
// approval.
type Approvers struct {
	Routes   map[string][]string `json:"routes,omitempty"`
	ExitNode []string            `json:"exitNode,omitempty"`
}

// NodeAttr is an entry of the policy's nodeAttrs.
type NodeAttr struct {
	Target []string                     `json:"target"`
	App    map[string][]json.RawMessage `json:"app"`
}

// PlanRole is a role in a [Plan].
type PlanRole struct {
	Name   string `json:"name"`
	Policy Policy `json:"policy"` // to be added to the tailnet's policy file
}

// PlanRoles returns the roles of a configuration. The policies name every member of the tailnet
// and example.com, which administrators replace.
func PlanRoles(cfg config.Config) []PlanRole {
	var out []PlanRole
	tags := cfg.Credential.Tags
	for _, role := range roles(cfg) {
		p := PlanRole{Name: role}
		switch role {
		case exitNodeRole:
			p.Policy.AutoApprovers = &Approvers{ExitNode: tags}
			p.Policy.Grants = []Grant{{Src: []string{"autogroup:member"}, Dst: []string{"autogroup:internet"}, IP: []string{"*"}}}
		case appConnectorRole:
			p.Policy.AutoApprovers = learnedApprovers(tags)
			app, _ := json.Marshal(map[string]any{"name": "example", "connectors": tags, "domains": []string{"example.com", "*.example.com"}})
			p.Policy.NodeAttrs = []NodeAttr{{Target: []string{"*"}, App: map[string][]json.RawMessage{tailnet.AppConnectorCapability: {app}}}}
		case peerRelayRole:
			p.Policy.Grants = []Grant{{Src: []string{"autogroup:member"}, Dst: tags, App: map[string][]json.RawMessage{tailnet.RelayCapability: {}}}}
		}
		out = append(out, p)
	}
	return out
}

// learnedApprovers approves each address that an app connector with tags may learn.
func learnedApprovers(tags []string) *Approvers {
	return &Approvers{Routes: map[string][]string{"0.0.0.0/0": tags, "::/0": tags}}
}

// withExitRoutes returns the routes that the data path counts: those of the sources, and those of
// the role of an exit node.
func (r *Router) withExitRoutes(prefixes []netip.Prefix) []netip.Prefix {
	if !r.cfg.ExitNode {
		return prefixes
	}
	return slices.Concat(prefixes, tailnet.ExitRoutes())
}

// maxListedLearned bounds the learned routes that /status lists.
const maxListedLearned = 100

func (r *Router) describeRoles(s tailnet.Status) []ops.Role {
	var out []ops.Role
	for _, name := range roles(r.cfg) {
		role := ops.Role{Name: name}
		switch name {
		case exitNodeRole:
			role.Advertised, role.Approved = s.ExitNode.Advertised, s.ExitNode.Approved
		case appConnectorRole:
			role.Advertised, role.Approved = s.AppConnector, len(s.UnapprovedLearned()) == 0
			role.Learned = len(s.Learned)
			role.Routes = routes.Strings(s.Learned[:min(len(s.Learned), maxListedLearned)])
		case peerRelayRole:
			relay := r.node.PeerRelay()
			role.Advertised, role.Approved, role.Port, role.Sessions = relay.Bound, relay.Bound, r.cfg.PeerRelay, relay.Sessions
		}
		out = append(out, role)
	}
	return out
}

func newRoleCollector(r *Router) prometheus.Collector {
	return collector{
		prometheus.NewDesc("router_role", "1 if a role besides that of a subnet router is in the state (on, advertised or approved), else 0.", []string{"role", "state"}, nil),
		func(desc *prometheus.Desc, out chan<- prometheus.Metric) {
			s, _ := r.node.Status()
			on := r.describeRoles(s)
			for _, name := range []string{exitNodeRole, appConnectorRole, peerRelayRole} {
				var role ops.Role
				i := slices.IndexFunc(on, func(o ops.Role) bool { return o.Name == name })
				if i >= 0 {
					role = on[i]
				}
				for state, is := range map[string]bool{"on": i >= 0, "advertised": role.Advertised, "approved": role.Advertised && role.Approved} {
					out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, boolValue(is), name, state)
				}
			}
		},
	}
}

// admitPeerDNS admits a query of a peer of an exit node or app connector by the shares that bound the
// questions to the VPC's resolver. With ROUTER_DNS, both share them.
func (r *Router) admitPeerDNS(peer netip.Addr) (leave func(), ok bool) {
	return r.peerDNSGate.Enter(peer)
}

func (r *Router) newPeerDNSGate() *dns.Gate {
	if r.resolver != nil {
		return r.resolver.server.Gate()
	}
	return dns.NewGate(r.node.NodeAddress, dns.Limits{InFlight: dnsQuestions(limits.MaxOpenFiles())})
}

// peerDNSMetrics counts the DNS queries that peers send to an exit node or app connector.
type peerDNSMetrics struct{ queries *prometheus.CounterVec }

func newPeerDNSMetrics(reg prometheus.Registerer) *peerDNSMetrics {
	m := &peerDNSMetrics{prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "router_peer_dns_queries_total",
		Help: "DNS queries that peers sent to this node as an exit node or app connector, by result.",
	}, []string{"result"})}
	for _, result := range tailnet.PeerDNSResults {
		m.queries.WithLabelValues(string(result))
	}
	reg.MustRegister(m.queries)
	return m
}

func (m *peerDNSMetrics) answered(result tailnet.PeerDNSResult) {
	m.queries.WithLabelValues(string(result)).Inc()
}
