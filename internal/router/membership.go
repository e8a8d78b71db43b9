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
			Name: "router_login_failures_total", Help: "Attempts to join that failed, by reason, a code of /readyz.",
		}, []string{"reason"}),
	}
	for _, code := range problem.With(problem.Login) {
		m.failures.WithLabelValues(string(code))
	}
	reg.MustRegister(m.attempts, m.failures)
	return m
}

// attempted counts an attempt. If the engine succeeds on its own after a counted failure,
// that counts as another attempt.
func (m *loginMetrics) attempted(err error) {
	m.attempts.Inc()
	if err != nil {
		m.failures.WithLabelValues(string(problem.CodeOf(err, problem.JoinFailed))).Inc()
	}
}

// credentialProblem returns err, the reason why the node cannot join, with a code of the
// closed set.
func credentialProblem(err error) *problem.Problem {
	p := *problem.Of(err)
	p.Code = problem.CodeOf(err, problem.JoinFailed)
	return &p
}

// addMemberReasons adds the reasons why the node is not a member of the tailnet, or is one
// that peers cannot reach.
func addMemberReasons(s tailnet.Status, add func(*problem.Problem)) {
	switch {
	case s.Removed:
		add(&problem.Problem{
			Code: problem.NodeRemoved, Message: "the control server no longer knows this node, which joins again",
			Fix: "if it was not removed in the admin console, look for a second process with the same state",
		})
	case s.KeyExpired():
		add(&problem.Problem{
			Code: problem.NodeKeyExpired, Message: "the node key expired at " + s.KeyExpiry.UTC().Format(time.RFC3339) + ", and the node joins again",
			Fix: "use an auth key that tags the node, since keys of tagged nodes do not expire, or disable key expiry for it in the admin console",
		})
	case s.Running() && s.LockedOut:
		add(&problem.Problem{
			Code: problem.LockedOut, Message: "the tailnet has Tailnet Lock, and this node's key is not signed: no peer accepts packets from it",
			Fix: "run on a signing node: " + s.SignCommand + "; for future nodes, sign the auth key (tailscale lock sign tskey-auth-…)",
		})
	case s.Backend == "NeedsMachineAuth":
		add(&problem.Problem{
			Code: problem.DeviceApproval, Message: "the tailnet requires device approval, and this node is not approved yet",
			Fix: "approve it in the admin console under Machines, or use a pre-approved auth key",
		})
	}
	switch {
	case s.Running() && !s.Removed:
	case s.LoginError != nil:
		add(credentialProblem(s.LoginError))
	case s.Backend == "NeedsMachineAuth", s.Removed, s.KeyExpired():
	default:
		add(&problem.Problem{Code: problem.Starting, Message: "joining the tailnet: " + joining(s.Backend)})
	}
}

// joining describes a state of the engine before it runs.
func joining(state string) string {
	switch state {
	case "NeedsLogin":
		return "the control server has not accepted the node yet"
	case "Starting":
		return "accepted; waiting for the netmap"
	}
	return "the engine is starting"
}
