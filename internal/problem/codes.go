package problem

// Code identifies a kind of problem for machines: in /readyz, /status, the log and the
// labels of metrics. The set is closed: see [Codes].
type Code string

// Codes of the start, of routes and of the drain.
const (
	Starting         Code = "starting"
	RoutesUnknown    Code = "routes_unknown"
	TargetsUnknown   Code = "targets_unknown"
	Announcing       Code = "announcing"
	RoutesUnapproved Code = "routes_unapproved"
	RoleUnapproved   Code = "role_unapproved"
	RelayClosed      Code = "relay_closed"
	EgressUnresolved Code = "egress_unresolved"
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

// Codes of the node's identity.
const (
	NoSlot             Code = "no_slot"
	IdentityUnreadable Code = "identity_unreadable"
)

// Codes that are warnings only.
const (
	NodeKeyExpiring       Code = "node_key_expiring"
	CredentialExpiring    Code = "credential_expiring"
	StateUnwritable       Code = "state_unwritable"
	ConnectorFull         Code = "connector_full"
	DNSUnavailable        Code = "dns_unavailable"
	DNSFailing            Code = "dns_failing"
	DNSRegistrationFailed Code = "dns_registration_failed"
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
	// Title is a headline for the person who reads the status page.
	Title string
	// Meaning is the text of docs/operations.md.
	Meaning string
}

// Codes is the closed set, in the order of docs/operations.md. The credential is also read
// while the node needs none, so the codes of reading it are warnings, too.
var Codes = []Entry{
	{Starting, Reason, "Starting", "look-ups, engine or login are under way"},
	{RoutesUnknown, Reason, "Routes not found yet", "the look-up of routes has not succeeded yet"},
	{TargetsUnknown, Reason | Warning, "Targets not found", "`ROUTER_ACCESS` is on, and the last look-up of network interfaces failed; until the first succeeds, the router is not ready and grants by security group, tag or VPC allow nothing"},
	{CredentialMissing, Reason | Login | Warning, "No credential", "no credential is configured, or the secret or parameter does not exist, is deleted or is empty"},
	{CredentialDenied, Reason | Login | Warning, "Not allowed to read the credential", "the task role may not read the secret or parameter, use its KMS key or request an identity token, or there is no role"},
	{CredentialMalformed, Reason | Login | Warning, "The secret holds no credential", "the secret or parameter holds no credential"},
	{CredentialUnreachable, Reason | Login | Warning, "Cannot reach the source of the credential", "Secrets Manager, Systems Manager, STS or Tailscale's API does not answer"},
	{CredentialThrottled, Reason | Login | Warning, "Asked to wait for the credential", "Secrets Manager, Systems Manager, STS or Tailscale's API limits the rate of calls"},
	{FederationDisabled, Reason | Login | Warning, "Identity federation is disabled in AWS", "outbound web identity federation is disabled in this AWS account"},
	{IdentityRefused, Reason | Login | Warning, "Tailscale refuses this identity", "Tailscale's API refuses the OAuth client or the federated identity"},
	{TagsRefused, Reason | Login, "Tags refused", "the key may not give the tags"},
	{KeyRefused, Reason | Login, "Auth key refused", "control refused the auth key: expired, revoked, used up or unknown, which it does not distinguish"},
	{ControlUnreachable, Reason | Login, "Cannot reach the control server", "the control server does not answer the registration"},
	{ControlThrottled, Reason | Login, "Asked to wait by the control server", "the control server limits the rate of registrations"},
	{ClockSkew, Reason | Login | Warning, "The clock is wrong", "the clock of this machine differs from that of AWS, Tailscale's API or control"},
	{JoinFailed, Reason | Login | Warning, "Cannot join the tailnet", "any other failure to join"},
	{NodeRemoved, Reason, "Removed from the tailnet", "control no longer knows the node, which joins again"},
	{NodeKeyExpired, Reason, "The node key has expired", "the node key expired, and the node joins again"},
	{LockedOut, Reason, "Not signed for Tailnet Lock", "the tailnet has Tailnet Lock, and this node's key is not signed"},
	{DeviceApproval, Reason, "Waiting for device approval", "the tailnet requires approval of new devices"},
	{NoSlot, Reason, "All identities are in use", "other tasks hold all slots of the table in `ROUTER_STATE`"},
	{IdentityUnreadable, Reason, "Cannot read the node's identity", "the table or the parameter in `ROUTER_STATE` cannot be read, or the stored state not be decrypted"},
	{Announcing, Reason, "Announcing itself to the tailnet", "joined, waiting for endpoints and a home DERP"},
	{RoutesUnapproved, Reason, "Routes are not approved", "the tailnet does not let this node serve a route"},
	{RoleUnapproved, Reason | Warning, "A role is not approved", "the tailnet does not let this node serve as an exit node; as a warning, it does not let it serve an address that its app connector has learned"},
	{RelayClosed, Reason, "The peer relay is closed", "the peer relay does not listen on the port of `ROUTER_PEER_RELAY`"},
	{EgressUnresolved, Reason | Warning, "All ports are not forwarded", "the target of `*=HOST` in `ROUTER_EGRESS` cannot be resolved to a node that may be reached, or the kernel refuses the rules; as a warning, ports were forwarded before, and still are to the last addresses, or to those of one IP version only; to none while the kernel refuses the rules"},
	{Draining, Reason, "Stopping", "the router is stopping"},
	{ProbeFailed, Reason, "A probed target does not answer", "a target of `ROUTER_PROBE` does not accept connections from this task"},
	{NodeKeyExpiring, Warning, "The node key expires soon", "the node key expires within a week"},
	{CredentialExpiring, Warning, "The credential expires soon", "the stored credential expires within a week"},
	{ConnectorFull, Warning, "The app connector is full", "the app connector has 1,000 addresses, and its domains have more"},
	{DNSUnavailable, Warning, "DNS is not answered", "`ROUTER_DNS` is on, but the VPC's resolver is unknown, or no advertised route has it"},
	{DNSFailing, Warning, "The VPC's resolver does not answer", "`ROUTER_DNS` is on, and the VPC's resolver answered none of the last questions"},
	{StateUnwritable, Warning, "State cannot be saved", "the place in `ROUTER_STATE` cannot be read or written"},
	{DNSRegistrationFailed, Warning, "Split DNS is not registered", "`ROUTER_DNS_REGISTER` is on, and the tailnet's split DNS does not name the VPC's resolver for every zone"},
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

// Title returns the headline of a code, or "" if the code is not in [Codes].
func (c Code) Title() string {
	for _, e := range Codes {
		if e.Code == c {
			return e.Title
		}
	}
	return ""
}
