package router

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"subnetrouter/internal/ops"
	"subnetrouter/internal/routes"
	"subnetrouter/internal/secret"
	"subnetrouter/internal/tailnet"
)

// The codes of what stands between the router and readiness; login.go has those
// of membership.
const (
	codeStarting   = "starting"
	codeRoutes     = "routes_unknown"
	codeAnnouncing = "announcing"
	codeUnapproved = "routes_unapproved"
	codeDraining   = "draining"
	codeProbe      = "probe_failed"
)

// mostMessage bounds a reason's message in bytes; it may quote several answers.
const mostMessage = 2000

func reason(code, message, fix string) ops.Reason {
	return ops.Reason{Code: code, Message: secret.Clean(message, mostMessage), Fix: fix}
}

// notReady lists the reasons; none means ready. Whether this router is the
// primary for its routes does not matter: a standby is ready.
func (r *Router) notReady() []ops.Reason {
	var why []ops.Reason
	add := func(code, message, fix string) {
		why = append(why, reason(code, message, fix))
	}
	if r.draining.Load() {
		add(codeDraining, "the router is stopping", "")
	}
	if _, _, found, err := r.lookUps.known(); found.IsZero() {
		if err != nil {
			add(codeRoutes, err.Error(), "")
		} else {
			add(codeStarting, "the routes are being looked up", "")
		}
	}
	r.addProbeReasons(add)
	if !r.node.Started() {
		add(codeStarting, "the engine is coming up", "")
		return why
	}
	s, _ := r.node.Status()
	addMemberReasons(s, add)
	if s.Running() && !s.Removed {
		r.addRouteReasons(s, add)
	}
	return why
}

func (r *Router) addRouteReasons(s tailnet.Status, add func(code, message, fix string)) {
	if r.draining.Load() {
		return
	}
	if len(s.Advertised) == 0 && !r.heldBack.Load() {
		add(codeAnnouncing, "the routes are not advertised yet", "")
	}
	if missing := s.Unapproved(); len(missing) > 0 {
		add(codeUnapproved, "the tailnet has not approved "+strings.Join(routes.Strings(missing), ", "),
			"approve them in the admin console, or add to the policy file: "+AutoApprovers(missing, r.cfg.Tags))
	}
}

// addProbeReasons says which targets behind the router do not answer.
func (r *Router) addProbeReasons(add func(code, message, fix string)) {
	if !r.prober.RoundDone() {
		add(codeStarting, "the targets of ROUTER_PROBE have not answered yet", "")
	}
	for _, f := range r.prober.Failing() {
		message := fmt.Sprintf("no connection to %s of ROUTER_PROBE: %v", f.Target, f.Err)
		if r.heldBack.Load() {
			message += "; the routes are left to another router, whose probes pass"
		}
		add(codeProbe, message, "let the target answer this task: security groups, route table, or is it down? Else take it out of ROUTER_PROBE")
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
