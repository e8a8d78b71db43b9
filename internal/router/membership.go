package router

import (
	"time"

	"subnetrouter/internal/problem"
	"subnetrouter/internal/tailnet"

	"github.com/prometheus/client_golang/prometheus"
)

// loginMetrics counts attempts to join.
type loginMetrics struct {
	attempts prometheus.Counter
	failures *prometheus.CounterVec
}

func newLoginMetrics(reg prometheus.Registerer) *loginMetrics {
	m := &loginMetrics{
		attempts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "router_login_attempts_total", Help: "Attempts to join the tailnet with a credential; a node with valid state makes none.",
		}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "router_login_failures_total", Help: "Attempts to join that failed, by reason: a code of /readyz.",
		}, []string{"reason"}),
	}
	for _, code := range problem.With(problem.Login) {
		m.failures.WithLabelValues(string(code))
	}
	reg.MustRegister(m.attempts, m.failures)
	return m
}

// done counts an attempt. One that the engine made good by itself, after it had
// been counted as failed, counts as another.
func (m *loginMetrics) attempted(err error) {
	m.attempts.Inc()
	if err != nil {
		m.failures.WithLabelValues(string(problem.CodeOf(err, problem.JoinFailed))).Inc()
	}
}

// credentialProblem returns why the node cannot join, with a code of the closed set.
func credentialProblem(err error) *problem.Problem {
	p := *problem.Of(err)
	p.Code = problem.CodeOf(err, problem.JoinFailed)
	return &p
}

// addMemberReasons adds why the node is not a member, or not one that peers reach.
func addMemberReasons(s tailnet.Status, add func(*problem.Problem)) {
	switch {
	case s.Removed:
		add(&problem.Problem{
			Code: problem.NodeRemoved, Message: "the control server no longer knows this node, which joins anew",
			Fix: "if nobody removed it in the admin console, look for a second process with the same state",
		})
	case s.KeyExpired():
		add(&problem.Problem{
			Code: problem.NodeKeyExpired, Message: "the node key expired at " + s.KeyExpiry.UTC().Format(time.RFC3339) + ", and the node joins anew",
			Fix: "give the node a tag by its auth key, as keys of tagged nodes do not expire, or disable key expiry for it in the admin console",
		})
	case s.Running() && s.LockedOut:
		add(&problem.Problem{
			Code: problem.LockedOut, Message: "the tailnet has Tailnet Lock, and nobody signed this node's key: no peer talks to it",
			Fix: "run on a signing node: " + s.SignCommand + "; for nodes to come, sign the auth key (tailscale lock sign tskey-auth-…)",
		})
	case s.Backend == "NeedsMachineAuth":
		add(&problem.Problem{
			Code: problem.DeviceApproval, Message: "the tailnet requires approval of new devices, and this one awaits it",
			Fix: "approve it in the admin console under Machines, or use a pre-approved auth key",
		})
	}
	switch {
	case s.Running() && !s.Removed:
	case s.LoginError != nil:
		add(credentialProblem(s.LoginError))
	case s.Backend == "NeedsMachineAuth", s.Removed, s.KeyExpired():
	default:
		add(&problem.Problem{Code: problem.Starting, Message: "joining the tailnet: " + s.Backend})
	}
}
