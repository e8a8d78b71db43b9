// Package config reads the router's configuration: environment and flags in,
// one validated [Config] out, or one [*Error] with everything that is wrong.
//
// # How settings are read
//
// Each ROUTER_ variable has a flag of the same name, in lower case with dashes:
// --routes for ROUTER_ROUTES. The first of these counts: the flag, the ROUTER_
// variable, the name that the official image has for it (TS_), an old name
// (TAILSCALE_, with a warning), a flag in TS_EXTRA_ARGS, the default.
//
// An empty value counts as none; only ROUTER_ROUTES must not be empty, as no
// route at all is never meant (an empty TS_ROUTES is none, as in the official
// image). Blanks around a value are dropped. A value file:PATH is read from
// that file. An unknown ROUTER_ variable is an error, and so is a malformed
// value: nothing falls back silently. A credential in a variable that is not for
// one is an error, and is not shown.
//
// `router run` logs warnings, and `router plan` and `router doctor` print the
// same: an old name, a spelling that loses to another one with a different value,
// a TS_ or TAILSCALE_ variable that nothing reads and whose name is close to one
// that is read, a variable of the official image that has no use here.
//
// # Credential
//
// One of ROUTER_AUTH_SECRET, TS_AUTHKEY and TS_CLIENT_ID; none is needed where
// ROUTER_STATE is a folder, since a node with keys needs no credential.
//
//   - ROUTER_AUTH_SECRET (--auth-secret): name or ARN of a secret in Secrets
//     Manager; an ARN may carry ECS's suffix :json-key:version-stage:version-id.
//     It holds an auth key, an OAuth client secret, or JSON with one of auth_key,
//     authkey and TS_AUTHKEY, or with client_id and client_secret; case and
//     separators of these names do not count. Lines such as TS_AUTHKEY=… are
//     read too, and so are values in quotes, with a byte-order mark or in base64.
//     Two different credentials in one secret are an error.
//   - ROUTER_AUTH_SECRET_KEY (--auth-secret-key): the key in that JSON, if it is
//     none of these. Not with a JSON key in the ARN's suffix.
//   - TS_AUTHKEY, or TS_AUTH_KEY, TAILSCALE_AUTH_KEY: a literal auth key or OAuth
//     client secret, for tests and laptops. No flag: every process can read
//     another's arguments. Keys for Tailscale's control server start with tskey-;
//     with another one in ROUTER_CONTROL_URL they may have any form.
//   - An OAuth client secret, literal or stored, may have the attributes of the
//     official image: tskey-client-…?ephemeral=false&preauthorized=true. Without
//     them nodes are ephemeral if ROUTER_STATE is mem:, and preauthorized.
//     baseURL=… names the API that gets the secret, by https; it must not differ
//     from ROUTER_API_URL where that is set.
//   - TS_CLIENT_ID (--client-id) and TS_AUDIENCE (--audience): workload identity
//     federation, without a stored secret: AWS vouches for the task's role to that
//     audience, and the federated identity with that client ID trusts AWS.
//   - ROUTER_TAGS (--tags): tags of the auth keys that the router mints. Default
//     tag:subnet-router.
//
// # The node
//
//   - ROUTER_HOSTNAME (--hostname), or TS_HOSTNAME, TAILSCALE_HOSTNAME: one DNS
//     label. Default: from the task's family.
//   - ROUTER_CONTROL_URL (--control-url), or TS_CONTROL_URL: control server.
//     Default: Tailscale's.
//   - ROUTER_API_URL (--api-url): API that mints auth keys. Default: Tailscale's.
//   - ROUTER_STATE (--state), or TS_STATE_DIR: mem: (an ephemeral node) or an
//     absolute folder. Default mem:.
//   - ROUTER_MODE (--mode): auto, userspace or kernel; or TS_USERSPACE: true or
//     false (kernel). Default auto: kernel where the task may.
//   - ROUTER_UDP_PORT (--udp-port): WireGuard's port, 0 for any. Default 41641.
//   - ROUTER_SOCKET (--socket), or TS_SOCKET: LocalAPI for the tailscale command.
//     Default /var/run/tailscale/tailscaled.sock.
//   - TS_EXTRA_ARGS (--extra-args), or TAILSCALE_ADDITIONAL_FLAGS: flags of
//     `tailscale up`, quoted as in a shell. Each yields to its own variable:
//     --hostname, --advertise-tags, --advertise-routes, --login-server, --timeout
//     (the boot timeout). These have none: --accept-routes, --snat-subnet-routes
//     (default true), --stateful-filtering. These change nothing: --accept-dns,
//     --reset, --netfilter-mode=on. Any other is an error that says what to do.
//
// # Routes
//
//   - ROUTER_ROUTES (--routes), or TS_ROUTES, TAILSCALE_ADVERTISE_ROUTES: comma
//     list of vpc (every CIDR associated with the VPC), subnet (the task's own),
//     subnets:TAG=VALUE (the VPC's subnets with that tag, in which * and ? are
//     wildcards), peerings (what the subnet's route table reaches over peerings
//     and transit gateways), pl-… (a prefix list) and CIDRs. Default vpc.
//   - ROUTER_EXCLUDE_ROUTES (--exclude-routes): CIDRs that are never advertised.
//   - ROUTER_SITE_ID (--site-id): 0 to 65535; IPv4 goes out as 4via6 under this
//     site, for VPCs that overlap.
//   - ROUTER_REFRESH (--refresh): time between two look-ups of routes and
//     credential, give or take a tenth, 1s to 24h. Each look-up is a handful of
//     calls of an account that has tens a second. Default 5m.
//
// # Operation
//
//   - ROUTER_LISTEN (--listen), or TS_LOCAL_ADDR_PORT: host:port of /metrics,
//     /healthz, /readyz, /status and the page /. Default :9002.
//   - ROUTER_STATUS_PAGE (--status-page): off for no page, and for a /status that
//     answers the router's own host only. Default on.
//   - ROUTER_BOOT_TIMEOUT (--boot-timeout), or TS_BOOT_TIMEOUT: past it the router
//     says loudly what is missing, and keeps trying; 1s to 1h. Default 60s.
//   - ROUTER_DRAIN_TIMEOUT (--drain-timeout): upper bound of the drain on SIGTERM,
//     1s to 1h. Above 110s is a warning: Fargate grants 120s at most. Default 60s.
//   - ROUTER_PROBE (--probe): host:port list behind the router, which is not ready
//     while one fails, and leaves its routes to another router whose probes pass
//   - ROUTER_FLOW_LOG (--flow-log): on for one line per finished flow. Default off.
//   - ROUTER_MAX_FLOWS (--max-flows), ROUTER_MAX_FLOWS_PER_PEER
//     (--max-flows-per-peer): new flows beyond are refused. Default: from memory and
//     open files, and for one address of the tailnet half of all.
//   - ROUTER_KEEPALIVE (--keepalive): silence after which both ends of a TCP
//     connection are probed, 10s to 2h. Default 60s.
//   - ROUTER_DEBUG_LISTEN (--debug-listen), or TS_DEBUG_ADDR_PORT: host:port of
//     pprof, on the loopback address without a host. Default off.
//   - ROUTER_LOG_LEVEL (--log-level): debug, info, warn or error. Default info.
//   - ROUTER_LOG_FORMAT (--log-format): json or text. Default json.
//   - ECS_CONTAINER_METADATA_URI_V4: task metadata; ECS sets it. Without it, as
//     outside ECS, ROUTER_ROUTES must be CIDRs.
//
// Region, endpoints and credentials of AWS are the SDK's own business and its
// own variables. Some further variables of the official image are refused or
// warned about where dropping them silently would surprise.
package config
