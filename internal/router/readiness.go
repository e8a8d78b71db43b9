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

// notReady lists the reasons; none means ready. Whether this router is the
// primary for its routes does not matter: a standby is ready.
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
	r.addProbeReasons(add)
	if !r.node.Started() {
		add(&problem.Problem{Code: problem.Starting, Message: "the engine is coming up"})
		return why
	}
	s, _ := r.node.Status()
	addMemberReasons(s, add)
	if s.Running() && !s.Removed {
		r.addRouteReasons(s, add)
	}
	return why
}

func (r *Router) addRouteReasons(s tailnet.Status, add func(*problem.Problem)) {
	if r.draining.Load() {
		return
	}
	if len(s.Advertised) == 0 && !r.heldBack.Load() {
		add(&problem.Problem{Code: problem.Announcing, Message: "the routes are not advertised yet"})
	}
	if missing := s.Unapproved(); len(missing) > 0 {
		add(&problem.Problem{
			Code: problem.RoutesUnapproved, Message: "the tailnet has not approved " + strings.Join(routes.Strings(missing), ", "),
			Fix: "approve them in the admin console, or add to the policy file: " + AutoApprovers(missing, r.cfg.Credential.Tags),
		})
	}
}

// addProbeReasons says which targets behind the router do not answer.
func (r *Router) addProbeReasons(add func(*problem.Problem)) {
	if !r.prober.RoundDone() {
		add(&problem.Problem{Code: problem.Starting, Message: "the targets of ROUTER_PROBE have not answered yet"})
	}
	for _, f := range r.prober.Failing() {
		message := fmt.Sprintf("no connection to %s of ROUTER_PROBE: %v", f.Target, f.Err)
		if r.heldBack.Load() {
			message += "; the routes are left to another router, whose probes pass"
		}
		add(&problem.Problem{
			Code: problem.ProbeFailed, Message: message,
			Fix: "let the target answer this task: security groups, route table, or is it down? Else take it out of ROUTER_PROBE",
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

// live fails only where a restart would help: the engine no longer answers.
// Control, AWS and approval have no say in it.
func (r *Router) live() error {
	const patience = 3 * time.Second
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := r.node.Responsive(ctx); err != nil {
		return fmt.Errorf("the engine did not answer within %v", patience)
	}
	return nil
}
