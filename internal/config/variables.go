package config

import (
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"subnetrouter/internal/bootstrap/identity"
	"subnetrouter/internal/bootstrap/routesource"
	"subnetrouter/internal/bootstrap/zones"
	"subnetrouter/internal/proxyproto"
	"subnetrouter/internal/routes"
	"subnetrouter/internal/secret"
)

// variable is one setting. The table below determines the known names, parsing, precedence,
// the order of problems, and [Usage].
type variable struct {
	name     string   // of the environment variable
	flag     string   // without dashes; "" = none
	aliases  []string // other programs' names, by precedence
	fallback string   // parsed if the setting is unset; "" = the zero value
	shown    string   // the default in words, if fallback is ""
	meaning  string   // one sentence or two
	example  string   // advice for an empty value, which is then an error; "" = empty means unset
	group    group    // the section of the documentation
	accepts  string   // the values in words; a test compares "A to B" and "a, b or c" with the parser
	sample   string   // a value as an operator may write it
	details  string   // more, as Markdown, for docs/configuration.md only

	// credential reports that the value may be a credential. In other settings, a value
	// that looks like one is refused, and never shown.
	credential bool

	// set parses a value into c; on an error it leaves c unchanged. name is the name that
	// the operator gave the value under.
	set func(c *Config, name, value string) error
}

// group is a section of the documentation.
type group string

const (
	credentialGroup group = "Credential"
	nodeGroup       group = "Node"
	routesGroup     group = "Routes"
	rolesGroup      group = "Roles"
	operationGroup  group = "Operation"
)

// groups lists the sections in the order of the documentation.
var groups = []group{credentialGroup, nodeGroup, routesGroup, rolesGroup, operationGroup}

// into returns a set function that stores the result of parse in a field.
func into[T any](field func(*Config) *T, parse func(string) (T, error)) func(*Config, string, string) error {
	return func(c *Config, _, value string) error {
		v, err := parse(value)
		if err == nil {
			*field(c) = v
		}
		return err
	}
}

var variables = []variable{
	{
		group: credentialGroup, accepts: "a name or ARN", sample: "tailscale/auth-key",
		name: "ROUTER_AUTH_SECRET", flag: "auth-secret", credential: true,
		meaning: "Name or ARN of the Secrets Manager secret with the credential; an ARN may carry ECS's suffix :json-key:version-stage:version-id. Or the ARN of an SSM parameter, which may carry a version or label, as in :3. The value is an auth key, an OAuth client secret, or JSON with auth_key, authkey or TS_AUTHKEY, or with client_id and client_secret. A client secret may have attributes, as in ?ephemeral=false&preauthorized=true.",
		details: "Case and separators of the JSON names do not matter. Lines such as `TS_AUTHKEY=…` are read too, and so are values in quotes, with a byte-order mark or in base64. Two different credentials in one secret are an error.",
		set:     setStored,
	},
	{
		group: credentialGroup, accepts: "a key of a JSON object", sample: "password",
		name: "ROUTER_AUTH_SECRET_KEY", flag: "auth-secret-key",
		meaning: "Key of the credential in the JSON of the secret or parameter, if it is none of the above.",
		details: "It excludes a JSON key in the ARN's suffix.",
		set:     into(func(c *Config) *string { return &c.authSecretKey }, parseText),
	},
	{
		group: credentialGroup, accepts: "an auth key or OAuth client secret", sample: "tskey-auth-…",
		// No flag: every process on the machine can read another's arguments.
		name: "TS_AUTHKEY", aliases: []string{"TS_AUTH_KEY", "TAILSCALE_AUTH_KEY"}, credential: true,
		meaning: "A literal auth key or OAuth client secret, for tests and laptops. It has no flag, since arguments are visible to every process.",
		details: "Keys for Tailscale's control server start with `tskey-`; with another server in `ROUTER_CONTROL_URL` they may have any form. An OAuth client secret, literal or stored, may have the attributes of the official image: `tskey-client-…?ephemeral=false&preauthorized=true`. Without them nodes are preauthorized, and ephemeral if `ROUTER_STATE` is `mem:`. `baseURL=https://…` names the API that receives the secret; it must not contradict `ROUTER_API_URL`.",
		set:     into(func(c *Config) *secret.String { return &c.Credential.AuthKey }, parseAuthKey),
	},
	{
		group: credentialGroup, accepts: "a client ID", sample: "kEXAMPLE",
		name: "TS_CLIENT_ID", flag: "client-id",
		meaning: "Workload identity federation instead of a stored credential: the client ID of the federated identity. AWS issues a token for the task's role.",
		details: "Nothing is stored: the federated identity with that client ID trusts AWS's token. See [operations.md](operations.md#workload-identity-federation-nothing-stored-at-all).",
		set:     into(func(c *Config) *string { return &c.Credential.ClientID }, parseWord),
	},
	{
		group: credentialGroup, accepts: "an audience", sample: "api.tailscale.com/kEXAMPLE",
		name: "TS_AUDIENCE", flag: "audience",
		meaning: "The audience that the federated identity expects, by default api.tailscale.com/CLIENT-ID at Tailscale; set with TS_CLIENT_ID.",
		set:     into(func(c *Config) *string { return &c.Credential.Audience }, parseWord),
	},
	{
		group: credentialGroup, accepts: "a comma list of tags", sample: "tag:subnet-router,tag:prod",
		name: "ROUTER_TAGS", flag: "tags", fallback: "tag:subnet-router",
		meaning: "Comma list of tags for auth keys that the router mints.",
		set:     into(func(c *Config) *[]string { return &c.Credential.Tags }, parseTags),
	},
	{
		group: nodeGroup, accepts: "a DNS label", sample: "vpc-prod",
		name: "ROUTER_HOSTNAME", flag: "hostname", aliases: []string{"TS_HOSTNAME", "TAILSCALE_HOSTNAME"},
		shown:   "from the task's family; outside ECS `subnet-router`, or the host's name if all variables are those of the official image (TS_)",
		meaning: "Name of the node in the tailnet: one DNS label.",
		set:     into(func(c *Config) *string { return &c.Hostname }, parseHostname),
	},
	{
		group: nodeGroup, accepts: "an http or https URL", sample: "https://headscale.example.com",
		name: "ROUTER_CONTROL_URL", flag: "control-url", aliases: []string{"TS_CONTROL_URL"},
		shown:   "Tailscale's",
		meaning: "Control server; Headscale works.",
		set:     into(func(c *Config) *string { return &c.ControlURL }, parseURL),
	},
	{
		group: nodeGroup, accepts: "an http or https URL", sample: "https://api.example.com",
		name: "ROUTER_API_URL", flag: "api-url",
		shown:   "Tailscale's",
		meaning: "API that mints auth keys from an OAuth client secret or a federated identity.",
		set:     into(func(c *Config) *string { return &c.Credential.APIURL }, parseURL),
	},
	{
		group: routesGroup, accepts: "a comma list of sources and CIDRs", sample: "vpc,peerings,10.9.0.0/16",
		name: "ROUTER_ROUTES", flag: "routes", aliases: []string{"TS_ROUTES", "TAILSCALE_ADVERTISE_ROUTES"},
		fallback: "vpc", example: "vpc, subnet or CIDRs such as 10.0.0.0/16",
		meaning: "Comma list of route sources: " + routesource.Help() + ".",
		set:     into(func(c *Config) *[]routesource.Source { return &c.Routes.Sources }, routesource.Parse),
	},
	{
		group: routesGroup, accepts: "a comma list of CIDRs", sample: "10.0.8.0/24",
		name: "ROUTER_EXCLUDE_ROUTES", flag: "exclude-routes",
		meaning: "Comma list of CIDRs that are never advertised.",
		set:     into(func(c *Config) *[]netip.Prefix { return &c.Routes.Exclude }, routes.ParsePrefixes),
	},
	{
		group: routesGroup, accepts: "0 to 65535", sample: "7",
		name: "ROUTER_SITE_ID", flag: "site-id",
		meaning: "Advertise IPv4 as 4via6 under this site, for VPCs that overlap; clients then reach 10.0.3.4 as 10-0-3-4-via-7.",
		set:     into(func(c *Config) **uint32 { return &c.Routes.Site }, parseSite),
	},
	{
		group: routesGroup, accepts: "1s to 24h", sample: "10m",
		name: "ROUTER_REFRESH", flag: "refresh", fallback: "5m",
		meaning: "How often routes and credential are looked up again, give or take a tenth.",
		details: "Each lookup is a handful of API calls; an account may make tens per second.",
		set:     into(func(c *Config) *time.Duration { return &c.Refresh }, duration(time.Second, 24*time.Hour)),
	},
	{
		group: routesGroup, accepts: "a comma list of domains, or auto", sample: "auto,corp.example.com",
		name: "ROUTER_DNS_ZONES", flag: "dns-zones",
		meaning: "Comma list of domains that only the VPC's DNS resolver resolves, which status and plan list with the split-DNS setting for clients; auto finds those of the VPC.",
		details: "`auto` stands for the private hosted zones that are associated with the VPC, the domains of its resolver rules, those of its Route 53 Profile, and the domain of instances' names " +
			"(`REGION.compute.internal`, in us-east-1 `ec2.internal`), if the VPC has `enableDnsHostnames`. It does not find the zones of DNS servers in the DHCP options: add them by name. " +
			"It needs the actions that `router plan --iam` prints, and access to Route 53 ([operations.md](operations.md#private-dns)).",
		set: into(func(c *Config) *zones.Settings { return &c.Zones }, zones.Parse),
	},
	{
		group: routesGroup, accepts: "on or off", sample: "on",
		name: "ROUTER_DNS_REGISTER", flag: "dns-register", fallback: "off",
		meaning: "on: keep the VPC's DNS resolver registered in the tailnet's split DNS for the domains of ROUTER_DNS_ZONES.",
		details: "It needs an OAuth client or a federated identity with the scope `dns`. Nameservers of others stay, and `router plan` shows the changes " +
			"([operations.md](operations.md#registered-split-dns)).",
		set: into(func(c *Config) *bool { return &c.DNSRegister }, parseSwitch),
	},
	{
		group: rolesGroup, accepts: "on or off", sample: "on",
		name: "ROUTER_EXIT_NODE", flag: "exit-node", fallback: "off",
		meaning: "on: the router is an exit node too: clients may send all of their traffic through it, and their DNS queries to it.",
		details: "It advertises `0.0.0.0/0` and `::/0`, in both modes; the deny list stays. See [Roles](operations.md#roles).",
		set:     into(func(c *Config) *bool { return &c.ExitNode }, parseSwitch),
	},
	{
		group: rolesGroup, accepts: "on or off", sample: "on",
		name: "ROUTER_APP_CONNECTOR", flag: "app-connector", fallback: "off",
		meaning: "on: the router is an app connector too: it advertises the addresses of the domains that the tailnet's policy names for it, next to its own routes.",
		details: "It learns the addresses from the DNS queries of clients, at most 1,000. See [Roles](operations.md#roles).",
		set:     into(func(c *Config) *bool { return &c.AppConnector }, parseSwitch),
	},
	{
		group: rolesGroup, accepts: "a UDP port", sample: "40000",
		name: "ROUTER_PEER_RELAY", flag: "peer-relay", shown: "off",
		meaning: "UDP port of a peer relay: nodes that cannot reach each other directly exchange their packets through the router instead of DERP. off: none.",
		details: "The port must differ from `ROUTER_UDP_PORT`, and be reachable from the nodes. See [Roles](operations.md#roles).",
		set:     into(func(c *Config) *uint16 { return &c.PeerRelay }, parseRelayPort),
	},
	{
		group: rolesGroup, accepts: "a comma list of IP:PORT", sample: "203.0.113.7:40000",
		name: "ROUTER_PEER_RELAY_ENDPOINTS", flag: "peer-relay-endpoints",
		meaning: "Comma list of IP:PORT at which nodes reach the peer relay besides the addresses that it finds itself: those of a NAT with a forwarded port, or of a Network Load Balancer.",
		set:     into(func(c *Config) *[]netip.AddrPort { return &c.PeerRelayEndpoints }, parseEndpoints),
	},
	{
		group: nodeGroup, accepts: identity.Syntaxes(), sample: "dynamodb:routers",
		name: "ROUTER_STATE", flag: "state", aliases: []string{"TS_STATE_DIR"}, fallback: "mem:",
		meaning: "Where the node's keys are stored: " + identity.Help() + ".",
		details: "A folder and a parameter are for one router: its next task must not start before it has stopped. With a table, the node of slot N is called HOSTNAME-N. See [Identities](operations.md#identities).",
		set:     into(func(c *Config) *identity.Source { return &c.Identity.Source }, identity.Parse),
	},
	{
		group: nodeGroup, accepts: "an absolute path", sample: "/var/lib/tailscale",
		name: "ROUTER_STATE_IMPORT", flag: "state-import",
		meaning: "With a table in ROUTER_STATE: the folder of an existing node, which slot 0 continues if it has no node yet.",
		details: "The task that used the folder must have stopped. See [Identities](operations.md#identities).",
		set:     into(func(c *Config) *string { return &c.Identity.Import }, parseAbsolute),
	},
	{
		group: nodeGroup, accepts: "auto, userspace or kernel", sample: "userspace",
		name: "ROUTER_MODE", flag: "mode", aliases: []string{"TS_USERSPACE"}, fallback: "auto",
		meaning: "How traffic reaches the VPC; auto is userspace. TS_USERSPACE is true or false (kernel).",
		details: "[Modes](#modes) compares them. With kernel, a setting of the router's own data path is an error, except with ROUTER_SITE_ID: 4via6 traffic passes it in both modes.",
		set:     setMode,
	},
	{
		group: nodeGroup, accepts: "0 to 65535", sample: "41641",
		name: "ROUTER_UDP_PORT", flag: "udp-port", fallback: "41641",
		meaning: "WireGuard port; 0 takes any free one.",
		set:     into(func(c *Config) *uint16 { return &c.UDPPort }, integer[uint16](0, 65535)),
	},
	{
		group: operationGroup, accepts: "on or off", sample: "on",
		name: "ROUTER_DNS", flag: "dns", fallback: "off",
		meaning: "on: the router answers the DNS queries that clients send to the VPC's resolver, from a cache, and advertises the resolver's address if no route has it; with ROUTER_SITE_ID, names lead to 4via6 addresses.",
		details: "It works in both modes. The resolver is the first name server in task metadata, else the VPC's first address plus two. See [DNS for the VPC](operations.md#dns-for-the-vpc).",
		set:     setDNS,
	},
	{
		group: operationGroup, accepts: "on or off", sample: "on",
		name: "ROUTER_DNS_REBIND_GUARD", flag: "dns-rebind-guard", fallback: "off",
		meaning: "on, with ROUTER_DNS=on: answers that lead to loopback, link-local or tailnet addresses, or to the router itself, are refused, unless a route has the address.",
		details: "It protects programs on clients from web pages whose names change to such an address (DNS rebinding). Private IPv4 addresses stay allowed.",
		set:     into(func(c *Config) *bool { return &c.DNSRebindGuard }, parseSwitch),
	},
	{
		group: operationGroup, accepts: "host:port or :port", sample: "127.0.0.1:9002",
		name: "ROUTER_LISTEN", flag: "listen", aliases: []string{"TS_LOCAL_ADDR_PORT", "TS_HEALTHCHECK_ADDR_PORT"}, fallback: ":9002",
		meaning: "host:port of /metrics, /healthz, /readyz, /status and the page /.",
		set:     into(func(c *Config) *string { return &c.Listen }, parseListen),
	},
	{
		group: operationGroup, accepts: "on or off", sample: "off",
		name: "ROUTER_STATUS_PAGE", flag: "status-page", fallback: "on",
		meaning: "off: no page at /, and /status, which names peers and flows, answers the router's own host only.",
		set:     into(func(c *Config) *bool { return &c.StatusPage }, parseSwitch),
	},
	{
		group: operationGroup, accepts: "on or off", sample: "on",
		name: "ROUTER_TAILNET_STATUS", flag: "tailnet-status", fallback: "off",
		meaning: "on: page, status, health and metrics also on the node's tailnet addresses, at the port of ROUTER_LISTEN, for peers whose grant has the app capability that `router plan` prints.",
		set:     into(func(c *Config) *bool { return &c.TailnetStatus }, parseSwitch),
	},
	{
		group: operationGroup, accepts: "off, host:port or :port", sample: "0.0.0.0:1080",
		name: "ROUTER_SOCKS5_LISTEN", flag: "socks5-listen", aliases: []string{"TS_SOCKS5_SERVER"}, shown: "off",
		meaning: "host:port of a SOCKS5 proxy into the tailnet, TCP and UDP; without a host, the loopback address.",
		details: "In TS_SOCKS5_SERVER, a missing host means all addresses, as in the official image. Programs reach nodes by name or address, with the router's rights in the tailnet, which every program that reaches the port has. See [Into the tailnet](operations.md#into-the-tailnet).",
		set:     proxyListen(func(c *Config) *string { return &c.SOCKS5Listen }),
	},
	{
		group: operationGroup, accepts: "off, host:port or :port", sample: "0.0.0.0:1080",
		name: "ROUTER_HTTP_PROXY_LISTEN", flag: "http-proxy-listen", aliases: []string{"TS_OUTBOUND_HTTP_PROXY_LISTEN"}, shown: "off",
		meaning: "host:port of an HTTP proxy into the tailnet, for CONNECT and http URLs; without a host, the loopback address.",
		details: "In TS_OUTBOUND_HTTP_PROXY_LISTEN, a missing host means all addresses, as in the official image. It may equal ROUTER_SOCKS5_LISTEN: one port then serves both.",
		set:     proxyListen(func(c *Config) *string { return &c.HTTPProxyListen }),
	},
	{
		group: operationGroup, accepts: "a comma list of PORT=HOST:PORT, PORT/udp=HOST:PORT and *=HOST", sample: "0.0.0.0:5432=db:5432,5353/udp=ns:53",
		name: "ROUTER_EGRESS", flag: "egress", aliases: egressAliases(),
		meaning: "Comma list of ports of the router that are forwarded into the tailnet, PORT=HOST:PORT or PORT/udp=HOST:PORT; an address before the port makes it listen there instead of on the loopback address.",
		details: "The host is a node's name or address, or an address behind another subnet router. With `0.0.0.0:PORT`, an NLB or a Cloud Map name makes a service of the VPC of it. An element `*=HOST`, such as `*=db`, leads all other ports of TCP and UDP, at each address of the task but the loopback ones, to the same port of one node; it needs kernel mode. See [Into the tailnet](operations.md#into-the-tailnet).",
		set:     setEgress,
	},
	{
		group: operationGroup, accepts: "1s to 1h", sample: "110s",
		name: "ROUTER_DRAIN_TIMEOUT", flag: "drain-timeout", fallback: "60s",
		meaning: "Upper bound of the drain on SIGTERM. ECS kills the task after its stopTimeout, at most 120s on Fargate: above 110s is a warning.",
		set:     into(func(c *Config) *time.Duration { return &c.DrainTimeout }, duration(time.Second, time.Hour)),
	},
	{
		group: operationGroup, accepts: "1s to 1h", sample: "2m",
		name: "ROUTER_BOOT_TIMEOUT", flag: "boot-timeout", aliases: []string{"TS_BOOT_TIMEOUT"}, fallback: "60s",
		meaning: "If the router is not ready by then, the log and /readyz report the missing step, and the router keeps trying.",
		set:     into(func(c *Config) *time.Duration { return &c.BootTimeout }, duration(time.Second, time.Hour)),
	},
	{
		group: operationGroup, accepts: "a comma list of host:port", sample: "10.0.3.4:5432",
		name: "ROUTER_PROBE", flag: "probe",
		meaning: "Comma list of host:port behind the router, connected to every 5s; while one fails, the router is not ready, and leaves its routes to another whose probes pass.",
		set:     into(func(c *Config) *[]string { return &c.Probes }, parseProbes),
	},
	{
		group: operationGroup, accepts: "a comma list of port=host:port, also with /tls, /http or /https behind the first port, and *=host", sample: "443/https=localhost:3000",
		name: "ROUTER_SERVE", flag: "serve", aliases: serveAliases(),
		meaning: "Comma list of PORT=HOST:PORT: TCP ports of the node's own tailnet addresses that lead to another container of the task (localhost) or into the VPC.",
		details: "The connections are flows like those to the routes: they have the same limits, metrics and flow log, and need the tailnet's access rules, for which `router plan` prints a grant. A name is resolved again every 30s. Link-local addresses and the router's own listeners are refused. PORT/tls=HOST:PORT terminates TLS, with the certificate of the node's name, which the tailnet must allow; see [operations.md](operations.md#tls). PORT/https=HOST:PORT also answers HTTP requests, as a reverse proxy that adds the client's user in headers, and PORT/http=HOST:PORT does so without TLS; see [operations.md](operations.md#http). An element *=HOST, such as *=10.0.3.4, leads all other ports of TCP and UDP to the same port of one host.",
		set:     setServe,
	},
	{
		group: operationGroup, accepts: "off, report or grants", sample: "grants",
		name: "ROUTER_ACCESS", flag: "access", fallback: "off",
		meaning: "grants: a flow also needs a rule for its target's security groups, tags, VPC or CIDR, in a grant with the app capability subnetrouter.dev/cap/aws. report: let all flows through, and log those that grants would deny.",
		details: "See [operations.md](operations.md#access-by-aws-identity). `router plan` prints grants to begin with. Denied flows are refused at once; the log, the flow log and `router_access_decisions_total` have them.",
		set:     into(func(c *Config) *Access { return &c.Access }, parseAccess),
	},
	{
		group: operationGroup, accepts: "on or off", sample: "on",
		name: "ROUTER_ACCESS_CUT", flag: "access-cut", fallback: "off",
		meaning: "on: a change of grants, tags or security groups also ends open flows that are no longer allowed. off: it applies to new flows.",
		set:     into(func(c *Config) *bool { return &c.AccessCut }, parseSwitch),
	},
	{
		group: operationGroup, accepts: "a comma list of CIDR:PORT", sample: "10.0.3.0/24:443",
		name: "ROUTER_PROXY_PROTOCOL", flag: "proxy-protocol",
		meaning: "Comma list of CIDR:PORT: TCP connections to these targets begin with a PROXY protocol header (version 2) that has the client's tailnet address and identity.",
		details: "See [operations.md](operations.md#client-addresses-for-targets). A target that does not expect the header takes it for the client's data.",
		set:     into(func(c *Config) *[]proxyproto.Target { return &c.ProxyProtocol }, parseProxyProtocol),
	},
	{
		group: operationGroup, accepts: "on or off", sample: "on",
		name: "ROUTER_FLOW_LOG", flag: "flow-log", fallback: "off",
		meaning: "on: one JSON line per finished flow, with the identity in the tailnet.",
		set:     into(func(c *Config) *bool { return &c.FlowLog }, parseSwitch),
	},
	{
		group: operationGroup, accepts: "on or off", sample: "on",
		name: "ROUTER_EMF", flag: "emf", fallback: "off",
		meaning: "on: load figures once a minute, as lines in CloudWatch's embedded metric format.",
		details: "CloudWatch Logs makes metrics of these lines, for alarms and autoscaling, without an agent: see [metrics.md](metrics.md#cloudwatch-without-a-scraper). The lines are JSON with any ROUTER_LOG_FORMAT.",
		set:     into(func(c *Config) *bool { return &c.EMF }, parseSwitch),
	},
	{
		group: operationGroup, accepts: "1 to 10000000", sample: "20000",
		name: "ROUTER_MAX_FLOWS", flag: "max-flows",
		shown:   "from memory and open files",
		meaning: "New flows beyond this many are refused.",
		set:     into(func(c *Config) *int { return &c.MaxFlows }, integer(1, maxFlowLimit)),
	},
	{
		group: operationGroup, accepts: "1 to 10000000", sample: "2000",
		name: "ROUTER_MAX_FLOWS_PER_PEER", flag: "max-flows-per-peer",
		shown:   "half of all",
		meaning: "The same for the flows of one address of the tailnet; at most ROUTER_MAX_FLOWS.",
		set:     into(func(c *Config) *int { return &c.MaxFlowsPerPeer }, integer(1, maxFlowLimit)),
	},
	{
		group: operationGroup, accepts: "a comma list of durations, for all ports or as port=duration", sample: "2h,5432=10m",
		name: "ROUTER_KEEPALIVE", flag: "keepalive", fallback: "2h",
		meaning: "Silence after which the client of a TCP connection is probed, also per port of the target.",
		details: "Each duration is from 10s to 2h. A computer that sleeps for less time keeps its idle connections. A client that never returns holds its connection to the target, such as a database session, for this long and 4 probes of 15s: 2h1m by default. If data is due to it, its connection ends earlier.",
		set:     into(func(c *Config) *KeepAlive { return &c.KeepAlive }, parseKeepAlive),
	},
	{
		group: operationGroup, accepts: "10s to 2h", sample: "5m",
		name: "ROUTER_TARGET_KEEPALIVE", flag: "target-keepalive", fallback: "60s",
		meaning: "Silence after which the target of a TCP connection is probed.",
		set:     into(func(c *Config) *time.Duration { return &c.TargetKeepAlive }, keepAliveTime),
	},
	{
		group: operationGroup, accepts: "bbr or cubic", sample: "cubic",
		name: "ROUTER_CONGESTION", flag: "congestion", fallback: "bbr",
		meaning: "Congestion control of TCP towards clients, in userspace mode.",
		details: "[tcp.md](tcp.md) describes the router's TCP.",
		set:     into(func(c *Config) *Congestion { return &c.Congestion }, parseCongestion),
	},
	{
		group: operationGroup, accepts: "off, host:port or :port", sample: ":6060",
		name: "ROUTER_DEBUG_LISTEN", flag: "debug-listen", aliases: []string{"TS_DEBUG_ADDR_PORT"}, shown: "off",
		meaning: "host:port of Go's pprof; without a host, the loopback address.",
		set:     into(func(c *Config) *string { return &c.DebugListen }, parseLocalListen),
	},
	{
		group: operationGroup, accepts: "debug, info, warn or error", sample: "debug",
		name: "ROUTER_LOG_LEVEL", flag: "log-level", fallback: "info",
		meaning: "The lowest level that is logged.",
		set:     into(func(c *Config) *slog.Level { return &c.LogLevel }, parseLogLevel),
	},
	{
		group: operationGroup, accepts: "json or text", sample: "text",
		name: "ROUTER_LOG_FORMAT", flag: "log-format", fallback: "json",
		meaning: "The form of log lines.",
		set:     into(func(c *Config) *string { return &c.LogFormat }, parseLogFormat),
	},
	{
		group: nodeGroup, accepts: "an absolute path", sample: "/tmp/tailscaled.sock",
		name: "ROUTER_SOCKET", flag: "socket", aliases: []string{"TS_SOCKET"}, fallback: "/var/run/tailscale/tailscaled.sock",
		meaning: "Socket for the tailscale command; if it cannot be created, the router logs a warning and runs without it.",
		set:     into(func(c *Config) *string { return &c.Socket }, parseSocket),
	},
	{
		group: nodeGroup, accepts: "flags of `tailscale up`", sample: "--snat-subnet-routes=false",
		name: extraArgs, flag: "extra-args", aliases: []string{"TAILSCALE_ADDITIONAL_FLAGS"},
		meaning: "Flags of `tailscale up`, quoted as in a shell: those that apply to a subnet router. The variable of a setting takes precedence.",
		set:     func(*Config, string, string) error { return nil }, // read before the others: see extraSettings
	},
	{
		group: operationGroup, accepts: "an http or https URL", sample: "http://169.254.170.2/v4/…",
		name:    metadataURI,
		meaning: "Task metadata endpoint; ECS sets it. Without it, ROUTER_ROUTES must be CIDRs, names or none; it is none by default if all other variables are those of the official image (TS_).",
		set:     into(func(c *Config) *string { return &c.MetadataURI }, parseURL),
	},
}

const (
	extraArgs   = "TS_EXTRA_ARGS"
	metadataURI = "ECS_CONTAINER_METADATA_URI_V4"

	// A flow takes kilobytes, so this detects typing errors; no machine reaches it.
	maxFlowLimit = 10_000_000
)

// setDNS also asks for the route to the resolver.
func setDNS(c *Config, _, value string) error {
	on, err := parseSwitch(value)
	if err == nil {
		c.DNS, c.Routes.Resolver = on, on
	}
	return err
}

// proxyListen returns a set function for the address of a proxy. In the official image's variables, a missing host
// means all addresses.
func proxyListen(field func(*Config) *string) func(*Config, string, string) error {
	return func(c *Config, name, value string) error {
		parse := parseLocalListen
		if strings.HasPrefix(name, "TS_") && value != "off" {
			parse = parseListen
		}
		listen, err := parse(value)
		if err == nil {
			*field(c) = listen
		}
		return err
	}
}

// setMode also reads the official image's switch.
func setMode(c *Config, name, value string) error {
	if name != "TS_USERSPACE" {
		m, err := parseMode(value)
		if err == nil {
			c.Mode = m
		}
		return err
	}
	userspace, err := parseBool(value)
	if err != nil {
		return err
	}
	c.Mode = ModeKernel
	if userspace {
		c.Mode = ModeUserspace
	}
	return nil
}

// Flags returns the names of the flags of all settings, without dashes, in the order of the
// table.
func Flags() (names []string) {
	for _, v := range variables {
		if v.flag != "" {
			names = append(names, v.flag)
		}
	}
	return names
}

// Names returns the names of all settings, in the order of the table.
func Names() []string {
	names := make([]string, len(variables))
	for i, v := range variables {
		names[i] = v.name
	}
	return names
}

// find returns the variable of that name.
func find(name string) variable {
	i := rank(name)
	if i == len(variables) {
		panic("config: no variable " + name)
	}
	return variables[i]
}

// rank returns a variable's position in the table; unknown ones come last.
func rank(name string) int {
	if i := slices.IndexFunc(variables, func(v variable) bool { return v.name == name }); i >= 0 {
		return i
	}
	return len(variables)
}

// prefix starts the names of the variables that only this program has.
const prefix = "ROUTER_"

// routerNames returns the names that start with prefix, without it.
func routerNames() []string {
	var names []string
	for _, v := range variables {
		if name, ok := strings.CutPrefix(v.name, prefix); ok {
			names = append(names, name)
		}
	}
	return names
}

func flagNames() []string {
	var names []string
	for _, v := range variables {
		if v.flag != "" {
			names = append(names, v.flag)
		}
	}
	return names
}
