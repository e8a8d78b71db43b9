package router

import (
	"time"

	"subnetrouter/internal/ops"
	"subnetrouter/internal/problem"
)

// How long before the expiry of a node key or a stored credential warnings begin.
const (
	nodeKeyWarning    = 7 * 24 * time.Hour
	credentialWarning = 7 * 24 * time.Hour
)

// warnings returns the conditions that will make the router not ready unless something
// changes, and those of DNS, app connectors and forwarded ports. They do not affect readiness now.
func (r *Router) warnings() []ops.Reason {
	var out []ops.Reason
	add := func(p *problem.Problem) { out = append(out, ops.ReasonOf(p)) }
	known := r.lookUps.credentials.boot.CredentialKnown()
	var joining bool
	var state *problem.Problem
	if r.node.Started() {
		s, _ := r.node.Status()
		joining, state = s.LoginError != nil, s.StateError
		if s.Running() && !s.Removed {
			r.addRoleWarnings(s, add)
			if p, reason := r.allPortsProblem(r.node.AllPorts()); p != nil && !reason {
				add(p)
			}
		}
		if left := time.Until(s.KeyExpiry); !s.KeyExpiry.IsZero() && left > 0 && left < nodeKeyWarning {
			add(&problem.Problem{
				Code: problem.NodeKeyExpiring, Message: "the node key expires at " + s.KeyExpiry.UTC().Format(time.RFC3339) + "; the node then joins again, which cuts its flows",
				Fix: "disable key expiry for the node in the admin console, or use an auth key that tags it",
			})
		}
	}
	if state != nil {
		add(&problem.Problem{Code: state.Code, Message: state.Message + "; the router keeps working, but is a new node after a restart", Fix: state.Fix})
	}
	if known.Err != nil && !joining { // else it is a reason already
		add(credentialProblem(known.Err))
	}
	if left := time.Until(known.Expires); !known.Expires.IsZero() && left < credentialWarning {
		add(&problem.Problem{
			Code: problem.CredentialExpiring, Message: "the stored credential expires at " + known.Expires.UTC().Format(time.RFC3339) + "; this node stays in the tailnet, but a new one could not join",
			Fix: "store a new one; OAuth clients and federated identities do not expire",
		})
	}
	if p := r.dnsProblem(); p != nil {
		add(p)
	}
	if p := r.accessWarning(); p != nil {
		add(p)
	}
	if p := r.dns.warning(); p != nil {
		add(p)
	}
	return out
}
