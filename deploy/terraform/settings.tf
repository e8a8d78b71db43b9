# The router's settings as environment variables of its container. Nothing here or in
# checks.tf refers to a resource.

locals {
  # As with `tailscale up` in Hardfin's module, the last flag takes effect, unless there is a
  # variable.
  flags = { for name, values in { for f in regexall("(?:^|\\s)--?(hostname|advertise-routes|advertise-tags|login-server)[= ]+[\"']?([^\\s\"']+)", var.additional_flags) : f[0] => f[1]... } : name => reverse(values)[0] }

  hostname = coalesce(var.hostname, lookup(local.flags, "hostname", trim(substr(replace(local.name, "/[^A-Za-z0-9-]+/", "-"), 0, 63), "-")), "tailscale")
  routes   = [for r in concat(lookup(local.flags, "advertise-routes", null) == null ? var.routes : split(",", local.flags["advertise-routes"]), var.additional_routes) : trimspace(r)]
  tailnet_tags = (
    lookup(local.flags, "advertise-tags", null) == null
    ? var.tailscale_tags
    : [for t in split(",", local.flags["advertise-tags"]) : startswith(t, "tag:") ? t : "tag:${t}"]
  )

  exclude_routes = [for r in var.exclude_routes : trimspace(r)]
  dns_zones      = [for z in var.dns_zones : trimspace(z)]
  egress         = [for e in var.egress : trimspace(e)]
  probes         = [for p in var.probes : trimspace(p)]
  serve          = [for s in var.serve : trimspace(s)]
  proxy_protocol = [for t in var.proxy_protocol : trimspace(t)]

  metrics_port = 9002
  state_dir    = "/var/lib/tailscale"

  # The binary's defaults apply, except for settings that the module relies on.
  environment = merge(var.environment, { for k, v in {
    ROUTER_AUTH_SECRET          = local.auth_secret
    ROUTER_AUTH_SECRET_KEY      = var.auth_secret_json_key
    TS_CLIENT_ID                = var.tailscale_client_id
    TS_AUDIENCE                 = var.tailscale_audience
    ROUTER_TAGS                 = join(",", local.tailnet_tags)
    ROUTER_HOSTNAME             = local.hostname
    ROUTER_CONTROL_URL          = var.control_url
    ROUTER_ROUTES               = join(",", local.routes)
    ROUTER_EXCLUDE_ROUTES       = length(var.exclude_routes) == 0 ? null : join(",", local.exclude_routes)
    ROUTER_SITE_ID              = var.site_id == null ? null : tostring(var.site_id)
    ROUTER_DNS_ZONES            = length(var.dns_zones) == 0 ? null : join(",", local.dns_zones)
    ROUTER_DNS_REGISTER         = var.dns_register ? "on" : null
    ROUTER_STATE                = local.router_state
    ROUTER_STATE_IMPORT         = var.state_import_efs ? local.state_dir : null
    ROUTER_UDP_PORT             = tostring(var.udp_port)
    ROUTER_DRAIN_TIMEOUT        = "${var.drain_timeout}s"
    ROUTER_PROBE                = length(var.probes) == 0 ? null : join(",", local.probes)
    ROUTER_SERVE                = length(var.serve) == 0 ? null : join(",", local.serve)
    ROUTER_SOCKS5_LISTEN        = var.socks5_listen
    ROUTER_HTTP_PROXY_LISTEN    = var.http_proxy_listen
    ROUTER_EGRESS               = length(var.egress) == 0 ? null : join(",", local.egress)
    ROUTER_MODE                 = var.kernel_mode ? "kernel" : null
    ROUTER_KEEPALIVE            = var.keepalive
    ROUTER_TARGET_KEEPALIVE     = var.target_keepalive
    ROUTER_DNS                  = var.dns ? "on" : null
    ROUTER_EXIT_NODE            = var.exit_node ? "on" : null
    ROUTER_APP_CONNECTOR        = var.app_connector ? "on" : null
    ROUTER_PEER_RELAY           = var.peer_relay_port == null ? null : tostring(var.peer_relay_port)
    ROUTER_PEER_RELAY_ENDPOINTS = length(var.peer_relay_endpoints) == 0 ? null : join(",", var.peer_relay_endpoints)
    ROUTER_ACCESS               = var.access == "off" ? null : var.access
    ROUTER_ACCESS_CUT           = var.access_cut ? "on" : null
    ROUTER_PROXY_PROTOCOL       = length(var.proxy_protocol) == 0 ? null : join(",", local.proxy_protocol)
    ROUTER_FLOW_LOG             = var.flow_log ? "on" : null
    ROUTER_EMF                  = var.emf ? "on" : null
    ROUTER_LOG_LEVEL            = var.log_level
    TS_EXTRA_ARGS               = var.additional_flags == "" ? null : var.additional_flags
  } : k => v if v != null })
}
