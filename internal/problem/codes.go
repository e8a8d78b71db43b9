package problem

// Code identifies a kind of problem for machines: in /readyz, /status, the log and the
// labels of metrics. The set is closed: see [Codes].
type Code string

// Codes of the start, of routes and of the drain.
const (
	Starting         Code = "starting"
	RoutesUnknown    Code = "routes_unknown"
	Announcing       Code = "announcing"
	RoutesUnapproved Code = "routes_unapproved"
	Draining         Code = "draining"
	ProbeFailed      Code = "probe_failed"
)

// Codes of joining the tailnet.
const (
	CredentialMissing     Code = "credential_missing"
	CredentialDenied      Code = "credential_denied"
	CredentialMalformed   Code = "credential_malformed"
	CredentialUnreachable Code = "credential_unreachable"
	CredentialThrottled   Code = "credential_throttled"
	FederationDisabled    Code = "federation_disabled"
	IdentityRefused       Code = "identity_refused"
	TagsRefused           Code = "tags_refused"
	KeyRefused            Code = "key_refused"
	ControlUnreachable    Code = "control_unreachable"
	ControlThrottled      Code = "control_throttled"
	ClockSkew             Code = "clock_skew"
	JoinFailed            Code = "join_failed"
)

// Codes of a node that joined before.
const (
	NodeRemoved    Code = "node_removed"
	NodeKeyExpired Code = "node_key_expired"
	LockedOut      Code = "locked_out"
	DeviceApproval Code = "device_approval"
)

// Codes that are warnings only.
const (
	NodeKeyExpiring    Code = "node_key_expiring"
	CredentialExpiring Code = "credential_expiring"
	StateUnwritable    Code = "state_unwritable"
)

// Use is a set of places in which a code appears.
type Use uint8

// The uses.
const (
	Reason  Use = 1 << iota // a reason of /readyz
	Login                   // the label "reason" of router_login_failures_total
	Warning                 // a warning of /readyz
)

// Entry describes one code.
type Entry struct {
	Code Code
	Use  Use
	// Meaning is the text of docs/operations.md.
	Meaning string
}

// Codes is the closed set, in the order of docs/operations.md. The credential is also read
// while the node needs none, so the codes of reading it are warnings, too.
var Codes = []Entry{
	{Starting, Reason, "look-ups, engine or login are under way"},
	{RoutesUnknown, Reason, "the look-up of routes has not succeeded yet"},
	{CredentialMissing, Reason | Login | Warning, "no credential is configured, or the secret does not exist, is deleted or is empty"},
	{CredentialDenied, Reason | Login | Warning, "the task role may not read the secret, use its KMS key or request an identity token, or there is no role"},
	{CredentialMalformed, Reason | Login | Warning, "the secret holds no credential"},
	{CredentialUnreachable, Reason | Login | Warning, "Secrets Manager, STS or Tailscale's API does not answer"},
	{CredentialThrottled, Reason | Login | Warning, "Secrets Manager, STS or Tailscale's API limits the rate of calls"},
	{FederationDisabled, Reason | Login | Warning, "outbound web identity federation is disabled in this AWS account"},
	{IdentityRefused, Reason | Login | Warning, "Tailscale's API refuses the OAuth client or the federated identity"},
	{TagsRefused, Reason | Login, "the key may not give the tags"},
	{KeyRefused, Reason | Login, "control refused the auth key: expired, revoked, used up or unknown, which it does not distinguish"},
	{ControlUnreachable, Reason | Login, "the control server does not answer the registration"},
	{ControlThrottled, Reason | Login, "the control server limits the rate of registrations"},
	{ClockSkew, Reason | Login | Warning, "the clock of this machine differs from that of AWS, Tailscale's API or control"},
	{JoinFailed, Reason | Login | Warning, "any other failure to join"},
	{NodeRemoved, Reason, "control no longer knows the node, which joins again"},
	{NodeKeyExpired, Reason, "the node key expired, and the node joins again"},
	{LockedOut, Reason, "the tailnet has Tailnet Lock, and this node's key is not signed"},
	{DeviceApproval, Reason, "the tailnet requires approval of new devices"},
	{Announcing, Reason, "joined, waiting for endpoints and a home DERP"},
	{RoutesUnapproved, Reason, "the tailnet does not let this node serve a route"},
	{Draining, Reason, "the router is stopping"},
	{ProbeFailed, Reason, "a target of `ROUTER_PROBE` does not accept connections from this task"},
	{NodeKeyExpiring, Warning, "the node key expires within a week"},
	{CredentialExpiring, Warning, "the stored credential expires within a week"},
	{StateUnwritable, Warning, "the folder of `ROUTER_STATE` cannot be read or written"},
}

// With returns the codes that have a use.
func With(u Use) []Code {
	var list []Code
	for _, e := range Codes {
		if e.Use&u != 0 {
			list = append(list, e.Code)
		}
	}
	return list
}
