package router

import (
	"errors"
	"time"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/bootstrap"
	"subnetrouter/internal/ops"
	"subnetrouter/internal/tailnet"
	"subnetrouter/internal/tsapi"

	"github.com/prometheus/client_golang/prometheus"
)

// Why joining the tailnet fails: codes of /readyz, and the reasons of
// router_login_failures_total.
const (
	codeCredentialMissing     = "credential_missing"     // none is named, or the secret is not there or empty
	codeCredentialDenied      = "credential_denied"      // the task role may not read or use it
	codeCredentialMalformed   = "credential_malformed"   // what was read is no credential
	codeCredentialThrottled   = "credential_throttled"   // AWS or Tailscale's API wants fewer calls
	codeCredentialUnreachable = "credential_unreachable" // AWS or Tailscale's API does not answer
	codeFederationDisabled    = "federation_disabled"    // the AWS account vouches for nobody
	codeIdentityRefused       = "identity_refused"       // Tailscale's API refuses the client or federated identity
	codeTagsRefused           = "tags_refused"           // the key may not give the tags
	codeKeyRefused            = "key_refused"            // control refuses the auth key
	codeControlThrottled      = "control_throttled"
	codeControlUnreachable    = "control_unreachable"
	codeClockSkew             = "clock_skew"
	codeJoin                  = "join_failed" // anything else
)

var loginCodes = []string{
	codeCredentialMissing, codeCredentialDenied, codeCredentialMalformed, codeCredentialThrottled, codeCredentialUnreachable,
	codeFederationDisabled, codeIdentityRefused, codeTagsRefused, codeKeyRefused, codeControlThrottled, codeControlUnreachable,
	codeClockSkew, codeJoin,
}

// loginCode is the code for an error of joining, wherever it is from.
func loginCode(err error) string {
	if e := (*awsapi.Error)(nil); errors.As(err, &e) {
		return awsCodes[e.Kind]
	}
	if e := (*tsapi.Error)(nil); errors.As(err, &e) {
		return apiCodes[e.Kind]
	}
	if e := (*tailnet.JoinError)(nil); errors.As(err, &e) {
		return joinCodes[e.Kind]
	}
	switch {
	case errors.Is(err, bootstrap.ErrNone), errors.Is(err, bootstrap.ErrEmpty):
		return codeCredentialMissing
	case errors.Is(err, bootstrap.ErrMalformed):
		return codeCredentialMalformed
	}
	return codeJoin
}

var awsCodes = map[awsapi.Kind]string{
	awsapi.Other: codeJoin, awsapi.Denied: codeCredentialDenied, awsapi.NotFound: codeCredentialMissing,
	awsapi.Throttled: codeCredentialThrottled, awsapi.Unavailable: codeCredentialUnreachable,
	awsapi.Credentials: codeCredentialDenied, awsapi.Disabled: codeFederationDisabled, awsapi.ClockSkew: codeClockSkew,
}

var apiCodes = map[tsapi.Kind]string{
	tsapi.Other: codeJoin, tsapi.Refused: codeIdentityRefused, tsapi.Denied: codeIdentityRefused, tsapi.BadTags: codeTagsRefused,
	tsapi.Throttled: codeCredentialThrottled, tsapi.Unavailable: codeCredentialUnreachable, tsapi.ClockSkew: codeClockSkew,
}

var joinCodes = map[tailnet.JoinKind]string{
	tailnet.JoinOther: codeJoin, tailnet.JoinKeyRefused: codeKeyRefused, tailnet.JoinTagsRefused: codeTagsRefused,
	tailnet.JoinThrottled: codeControlThrottled, tailnet.JoinNoAnswer: codeControlUnreachable, tailnet.JoinClockSkew: codeClockSkew,
}

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
	for _, code := range loginCodes {
		m.failures.WithLabelValues(code)
	}
	reg.MustRegister(m.attempts, m.failures)
	return m
}

// done counts an attempt. One that the engine made good by itself, after it had
// been counted as failed, counts as another.
func (m *loginMetrics) done(err error) {
	m.attempts.Inc()
	if err != nil {
		m.failures.WithLabelValues(loginCode(err)).Inc()
	}
}

// The codes of what a person decides in the tailnet.
const (
	codeDeviceApproval  = "device_approval"
	codeNodeRemoved     = "node_removed"
	codeNodeKeyExpired  = "node_key_expired"
	codeLockedOut       = "locked_out"
	codeNodeKeyExpiring = "node_key_expiring"
)

// addMemberReasons tells why the node is no member, or none that counts.
func addMemberReasons(s tailnet.Status, add func(code, message, fix string)) {
	switch {
	case s.Removed:
		add(codeNodeRemoved, "the control server no longer knows this node, which joins anew", "if nobody removed it in the admin console, look for a second process with the same state")
	case s.KeyExpired():
		add(codeNodeKeyExpired, "the node key expired at "+s.KeyExpiry.UTC().Format(time.RFC3339)+", and the node joins anew",
			"give the node a tag by its auth key, as keys of tagged nodes do not expire, or disable key expiry for it in the admin console")
	case s.Running() && s.LockedOut:
		add(codeLockedOut, "the tailnet has Tailnet Lock, and nobody signed this node's key: no peer talks to it",
			"run on a signing node: "+s.SignCommand+"; for nodes to come, sign the auth key (tailscale lock sign tskey-auth-…)")
	case s.Backend == "NeedsMachineAuth":
		add(codeDeviceApproval, "the tailnet requires approval of new devices, and this one awaits it",
			"approve it in the admin console under Machines, or use a pre-approved auth key")
	}
	switch {
	case s.Running() && !s.Removed:
	case s.LoginError != nil:
		add(loginCode(s.LoginError), s.LoginError.Error(), "")
	case s.Backend == "NeedsMachineAuth", s.Removed, s.KeyExpired():
	default:
		add(codeStarting, "joining the tailnet: "+s.Backend, "")
	}
}

// How long before the end of a node key or a stored credential there is a warning.
const (
	nodeKeyWarning    = 7 * 24 * time.Hour
	credentialWarning = 7 * 24 * time.Hour
)

const (
	codeCredentialExpiring = "credential_expiring"
	codeStateUnwritable    = "state_unwritable"
)

// warnings are what will stand between the router and readiness one day. They
// make it no less ready now.
func (r *Router) warnings() []ops.Reason {
	var out []ops.Reason
	add := func(code, message, fix string) {
		out = append(out, reason(code, message, fix))
	}
	known := r.lookUps.credentials.boot.CredentialKnown()
	var joining bool
	var stateErr error
	if r.node.Started() {
		s, _ := r.node.Status()
		joining, stateErr = s.LoginError != nil, s.StateError
		if left := time.Until(s.KeyExpiry); !s.KeyExpiry.IsZero() && left > 0 && left < nodeKeyWarning {
			add(codeNodeKeyExpiring, "the node key expires at "+s.KeyExpiry.UTC().Format(time.RFC3339)+"; the node then joins anew, which cuts what it forwards",
				"disable key expiry for the node in the admin console, or give it a tag by its auth key")
		}
	}
	if stateErr != nil {
		add(codeStateUnwritable, stateErr.Error()+"; the router goes on, and is a new node after a restart", tailnet.StateFix)
	}
	if known.Err != nil && !joining { // else it is a reason already
		add(loginCode(known.Err), known.Err.Error(), "")
	}
	if left := time.Until(known.Expires); !known.Expires.IsZero() && left < credentialWarning {
		add(codeCredentialExpiring, "the stored credential ends at "+known.Expires.UTC().Format(time.RFC3339)+"; a node that is in the tailnet stays there, a new one could not join",
			"store a new one; an OAuth client or a federated identity never ends")
	}
	return out
}
