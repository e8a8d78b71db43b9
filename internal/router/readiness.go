package router

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"subnetrouter/internal/ops"
	"subnetrouter/internal/problem"
	"subnetrouter/internal/routes"
	"subnetrouter/internal/tailnet"
)

// notReady returns the reasons why the router is not ready; none means ready. A standby,
// which is approved for its routes without being primary for any, is ready.
func (r *Router) notReady() []ops.Reason {
	var why []ops.Reason
	add := func(p *problem.Problem) { why = append(why, ops.ReasonOf(p)) }
	if r.draining.Load() {
		add(&problem.Problem{Code: problem.Draining, Message: "the router is stopping"})
	}
	if _, _, found, err := r.lookUps.results(); found.IsZero() {
		if err != nil {
			p := *problem.Of(err)
			p.Code = problem.RoutesUnknown
			add(&p)
		} else {
			add(&problem.Problem{Code: problem.Starting, Message: "the routes are being looked up"})
		}
	}
	r.addAccessReasons(add)
	r.addProbeReasons(add)
	if !r.node.Started() {
		if waiting := r.lookUps.boot.IdentityWaiting(); waiting != nil {
			add(identityProblem(waiting))
		} else {
			add(&problem.Problem{Code: problem.Starting, Message: "the engine is starting"})
		}
		return why
	}
	s, _ := r.node.Status()
	addMemberReasons(s, add)
	if s.Running() && !s.Removed {
		r.addRouteReasons(s, add)
		r.addRoleReasons(s, add)
		r.addRelayReason(add)
		if p, reason := r.allPortsProblem(r.node.AllPorts()); reason {
			add(p)
		}
	}
	return why
}

func (r *Router) addRouteReasons(s tailnet.Status, add func(*problem.Problem)) {
	if r.draining.Load() {
		return
	}
	if len(s.Advertised) == 0 && !r.heldBack.Load() && !r.cfg.Routes.None() {
		add(&problem.Problem{Code: problem.Announcing, Message: "the routes are not advertised yet"})
	}
	if missing := s.Unapproved(); len(missing) > 0 {
		add(&problem.Problem{
			Code: problem.RoutesUnapproved, Message: "the tailnet has not approved " + strings.Join(routes.Strings(missing), ", "),
			Fix: "approve them in the admin console, or add to the policy file: " + AutoApprovers(missing, r.cfg.Credential.Tags),
		})
	}
}

// addRoleReasons adds a reason if the tailnet has not approved the exit node. Learned addresses are for
// [Router.addRoleWarnings]: the owners of domains choose them.
func (r *Router) addRoleReasons(s tailnet.Status, add func(*problem.Problem)) {
	if r.draining.Load() {
		return
	}
	if s.ExitNode.Advertised && !s.ExitNode.Approved {
		add(unapprovedRole("the tailnet has not approved this node as an exit node", &Approvers{ExitNode: r.cfg.Credential.Tags}))
	}
}

// addRoleWarnings adds warnings about the addresses that an app connector learns.
func (r *Router) addRoleWarnings(s tailnet.Status, add func(*problem.Problem)) {
	if r.draining.Load() {
		return
	}
	if n := len(s.UnapprovedLearned()); n > 0 {
		add(unapprovedRole(fmt.Sprintf("the tailnet has not approved %d of %d learned addresses of the app connector", n, len(s.Learned)),
			learnedApprovers(r.cfg.Credential.Tags)))
	}
	if r.node.ConnectorFull() {
		add(&problem.Problem{Code: problem.ConnectorFull,
			Message: fmt.Sprintf("the app connector has %d addresses, and found no place for others within the last hour", tailnet.MaxLearned),
			Fix:     "name fewer domains in the policy, or narrower ones than wildcards; use the routes of the app for services with many addresses; or divide the domains among connectors with different tags"})
	}
}

func unapprovedRole(message string, missing *Approvers) *problem.Problem {
	text, _ := json.Marshal(Policy{AutoApprovers: missing})
	return &problem.Problem{Code: problem.RoleUnapproved, Message: message,
		Fix: "approve it in the admin console, or add to the policy file: " + string(text)}
}

// addRelayReason adds a reason while the port of the peer relay is not bound.
func (r *Router) addRelayReason(add func(*problem.Problem)) {
	if r.cfg.PeerRelay != 0 && !r.draining.Load() && !r.node.PeerRelay().Bound {
		add(&problem.Problem{Code: problem.RelayClosed, Message: fmt.Sprintf("the peer relay does not listen on UDP port %d", r.cfg.PeerRelay),
			Fix: "set ROUTER_PEER_RELAY to a free port; if the policy has the node attribute disable-relay-server for this node, remove it"})
	}
}

// addProbeReasons adds a reason for each target of ROUTER_PROBE that does not answer.
func (r *Router) addProbeReasons(add func(*problem.Problem)) {
	if !r.prober.RoundDone() {
		add(&problem.Problem{Code: problem.Starting, Message: "the first probes of ROUTER_PROBE have not finished yet"})
	}
	for _, f := range r.prober.Failing() {
		message := fmt.Sprintf("no connection to %s of ROUTER_PROBE: %v", f.Target, f.Err)
		if r.heldBack.Load() {
			message += "; the routes are held back, since the probes of a peer router pass"
		}
		add(&problem.Problem{
			Code: problem.ProbeFailed, Message: message,
			Fix: "make the target reachable from this task (security groups, route table, the service itself), or remove it from ROUTER_PROBE",
		})
	}
}

// AutoApprovers returns the part of a tailnet policy file that approves ps for nodes with tags.
func AutoApprovers(ps []netip.Prefix, tags []string) string {
	routes := map[string][]string{}
	for _, p := range ps {
		routes[p.String()] = tags
	}
	text, _ := json.Marshal(map[string]any{"autoApprovers": map[string]any{"routes": routes}})
	return string(text)
}

// live returns an error only if restarting the process would help: the engine no longer
// answers. Failures of control, AWS and approval do not count.
func (r *Router) live() error {
	const timeout = 3 * time.Second
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if err := r.node.Responsive(ctx); err != nil {
		return fmt.Errorf("the engine did not answer within %v", timeout)
	}
	return nil
}
