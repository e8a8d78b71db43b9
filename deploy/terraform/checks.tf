# Conditions that the router checks when it starts, so that a plan rejects invalid settings
# first: a task with such settings would exit with code 2 again and again. A test compares
# them with `router plan` for generated values.

locals {
  dns_label    = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
  control_urls = compact([var.control_url == null ? "" : var.control_url, lookup(local.flags, "login-server", "")])

  # ---------------------------------------------------------------- CIDRs

  cidr_lists = {
    routes         = [for r in local.routes : r if !contains(["vpc", "subnet", "peerings", "none"], r) && !startswith(r, "pl-") && !can(regex("^(subnets|rds|lb|host):", r))]
    exclude_routes = local.exclude_routes
  }
  cidrs = { for c in distinct(flatten(values(local.cidr_lists))) : c => {
    address   = split("/", c)[0]
    bits      = tonumber(split("/", c)[1])
    family    = strcontains(c, ":") ? 6 : 4
    network   = cidrhost(c, 0)
    canonical = cidrhost("${split("/", c)[0]}/${strcontains(c, ":") ? 128 : 32}", 0)
    } if can(regex("^([0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*|(0|[1-9][0-9]*)(\\.(0|[1-9][0-9]*)){3})/(0|[1-9][0-9]*)$", c)) && can(cidrhost(c, 0))
  }

  malformed_cidrs = flatten([for list, cs in local.cidr_lists : [for c in cs :
    !contains(keys(local.cidrs), c) ? "${list}: ${jsonencode(c)} is not a CIDR: use one such as 10.0.0.0/16 or fd12:3456::/48." :
    local.cidrs[c].family == 6 && !strcontains(local.cidrs[c].canonical, ":") ? "${list}: ${c} is IPv4 written as IPv6: use ${local.cidrs[c].canonical}/${max(0, local.cidrs[c].bits - 96)}." :
    "${list}: ${c} has host bits set: use ${local.cidrs[c].network}/${local.cidrs[c].bits}."
    if !contains(keys(local.cidrs), c) || try(local.cidrs[c].network != local.cidrs[c].canonical || (local.cidrs[c].family == 6 && !strcontains(local.cidrs[c].canonical, ":")), false)
  ]])

  # Ranges that must not be advertised: network, length, reason and, for
  # IPv4, the network as a number, as 4via6 embeds it.
  refused_ranges = [
    { network = "169.254.0.0", bits = 16, number = 2851995648, reason = "link-local, where ECS and EC2 serve credentials and metadata" },
    { network = "127.0.0.0", bits = 8, number = 2130706432, reason = "loopback" },
    { network = "224.0.0.0", bits = 4, number = 3758096384, reason = "multicast" },
    { network = "255.255.255.255", bits = 32, number = 4294967295, reason = "broadcast" },
    { network = "0.0.0.0", bits = 8, number = 0, reason = "not a destination" },
    { network = "fd00:ec2::", bits = 32, number = null, reason = "where EC2 serves metadata, with credentials" },
    { network = "fe80::", bits = 10, number = null, reason = "link-local" },
    { network = "::1", bits = 128, number = null, reason = "loopback" },
    { network = "ff00::", bits = 8, number = null, reason = "multicast" },
    { network = "::", bits = 128, number = null, reason = "not a destination" },
  ]
  cgnat_range = { network = "100.64.0.0", bits = 10, number = null, reason = "Tailscale's own addresses, which clients drop" }
  via_network = "fd7a:115c:a1e0:b1a::"

  advertised = { for c in distinct(local.cidr_lists.routes) : c => local.cidrs[c] if contains(keys(local.cidrs), c) }
  refused_cidrs = flatten([for c, p in local.advertised : concat(
    p.bits == 0 ? ["routes: ${c} is a default route, for exit nodes: set exit_node for that role."] : [],
    [for r in concat(local.refused_ranges, var.site_id == null ? [local.cgnat_range] : []) : "routes: ${c} is never advertised: ${r.reason}."
      if strcontains(r.network, ":") == (p.family == 6) && p.bits >= r.bits && try(cidrhost("${p.address}/${r.bits}", 0), "") == r.network
    ],
    # Tailscale's own IPv6 addresses, except for 4via6 of one site.
    p.family != 6 || p.bits < 48 || try(cidrhost("${p.address}/48", 0), "") != "fd7a:115c:a1e0::" ? [] :
    p.bits <= 96 || try(cidrhost("${p.address}/80", 0), "") != local.via_network ? ["routes: ${c} is never advertised: Tailscale's own addresses."] :
    [for r in local.refused_ranges : "routes: ${c} is never advertised: 4via6 for ${r.network}/${r.bits}, ${r.reason}."
      if r.number != null && p.bits >= 96 + r.bits && try(cidrhost("${p.address}/${96 + r.bits}", 0) == cidrhost("${cidrhost("${p.address}/96", 0)}/96", r.number), false)
    ],
  )])

  # Prefixes that are valid alone can form a default route together: those that are not
  # within another one then add up to the whole address space.
  distinct_cidrs = { for p in values(local.advertised) : "${p.network}/${p.bits}" => p... }
  outermost = { for c, ps in local.distinct_cidrs : c => ps[0] if !anytrue([
    for other, qs in local.distinct_cidrs : other != c && qs[0].family == ps[0].family && qs[0].bits < ps[0].bits && try(cidrhost("${ps[0].address}/${qs[0].bits}", 0) == qs[0].network, false)
  ]) }
  whole_families = [for family in [4, 6] : "routes: taken together, the CIDRs are a default route, for exit nodes: set exit_node for that role."
    if sum(concat([0], [for c, p in local.outermost : pow(2, -p.bits) if p.family == family && p.bits > 0])) >= 1
  ]

  # ---------------------------------------------------------------- other settings

  malformed_sources = [for r in local.routes : "routes: ${jsonencode(r)} is not a source of routes: use vpc, subnet, subnets:TAG=VALUE, peerings, pl-…, rds:TAG=VALUE, lb:TAG=VALUE, host:NAME, none or a CIDR."
    if can(regex("^(subnets|rds|lb):", r)) && !can(regex("^(subnets|rds|lb):[^=,]+=[^,]+$", r)) ||
    startswith(r, "pl-") && !can(regex("^pl-[0-9a-f]{8,17}$", r)) ||
    # A name that ends in digits is an address.
    startswith(r, "host:") && (!can(regex("^host:${local.dns_label}(\\.${local.dns_label})*\\.?$", r)) || can(regex("[:.][0-9]+\\.?$", r)) || length(r) > length("host:") + 253)
  ]

  # A router without routes.
  no_routes = contains(local.routes, "none")
  none_problems = !local.no_routes ? [] : concat(
    length(distinct(local.routes)) == 1 ? [] : ["routes: none excludes all other sources: remove it, or them."],
    [for name, used in {
      exclude_routes = length(var.exclude_routes) > 0
      site_id        = var.site_id != null
      dns            = var.dns
      dns_zones      = length(var.dns_zones) > 0
    } : "${name}: has no effect without routes: remove it, or set routes." if used],
  )

  probe_hosts = { for p in distinct(local.probes) : p => trim(regex("^(.*):[0-9]+$", p)[0], "[]") if can(regex("^(\\[[0-9A-Fa-f:.]+\\]|${local.dns_label}(\\.${local.dns_label})*\\.?):0*[1-9][0-9]{0,4}$", p)) }
  malformed_probes = concat(
    [for p in local.probes : "probes: ${jsonencode(p)} is not host:port: use one such as 10.0.3.4:5432."
    if !contains(keys(local.probe_hosts), p) || try(tonumber(regex("[0-9]+$", p)) > 65535, false) || (startswith(p, "[") && !can(cidrhost("${local.probe_hosts[p]}/128", 0)))],
    [for p, host in local.probe_hosts : "probes: ${p} cannot be reached through the router: ${one([for r in local.refused_ranges : r.reason
      if strcontains(r.network, ":") == strcontains(host, ":") && try(cidrhost("${host}/${r.bits}", 0), "") == r.network][*])}."
      if length([for r in local.refused_ranges : r if strcontains(r.network, ":") == strcontains(host, ":") && try(cidrhost("${host}/${r.bits}", 0), "") == r.network]) > 0
    ],
  )

  # Elements of serve, whose hosts may be loopback. The port 0 stands for all others.
  served = { for s in distinct(local.serve) : s => {
    port   = startswith(s, "*=") ? 0 : tonumber(regex("^[0-9]+", s))
    kind   = try(regex("^[0-9]+/([a-z]+)=", s)[0], "")
    host   = startswith(s, "*=") ? substr(s, 2, -1) : trim(regex("^[0-9]+(?:/[a-z]+)?=(.*):[0-9]+$", s)[0], "[]")
    target = startswith(s, "*=") ? 0 : tonumber(regex("[0-9]+$", s))
  } if can(regex("^\\*=([0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*|${local.dns_label}(\\.${local.dns_label})*\\.?)$", s)) || can(regex("^0*[1-9][0-9]{0,4}(/(tls|https?))?=(\\[[0-9A-Fa-f:.]+\\]|${local.dns_label}(\\.${local.dns_label})*\\.?):0*[1-9][0-9]{0,4}$", s)) }
  unserved_ranges = [for r in local.refused_ranges : r if !contains(["127.0.0.0", "::1"], r.network)]
  # Of the router's listeners.
  own_ports = concat([local.metrics_port],
    [for at in concat(values(local.local_listens), values(local.egress_ports)[*].listen) : tonumber(regex("[0-9]+$", at)) if can(regex("[0-9]+$", at))],
  )
  own_tcp_ports = concat([local.metrics_port],
    [for at in concat(values(local.local_listens), [for e in values(local.egress_ports) : e.listen if !e.udp]) : tonumber(regex("[0-9]+$", at)) if can(regex("[0-9]+$", at))],
  )
  malformed_serve = concat(
    [for s in local.serve : "serve: ${jsonencode(s)} is not port=host:port, also with /tls, /http or /https behind the first port, or *=host: use one such as 443=localhost:8443."
    if !try(local.served[s].port <= 65535 && local.served[s].target <= 65535 && (!strcontains(local.served[s].host, ":") || can(cidrhost("${local.served[s].host}/128", 0))), false)],
    length(distinct(values(local.served)[*].port)) == length(distinct(values(local.served))) ? [] : ["serve: two elements have the same port: keep one of them."],
    [for s, to in local.served : "serve: ${s} has the port of the status on the tailnet (ROUTER_TAILNET_STATUS): use another port."
    if to.port == local.metrics_port && trimspace(lookup(var.environment, "ROUTER_TAILNET_STATUS", "")) == "on"],
    [for s, to in local.served : "serve: ${s} leads to a listener of the router: use another port."
    if contains(local.own_ports, to.target) && (to.host == "localhost" || try(cidrsubnet("${to.host}/8", 0, 0) == "127.0.0.0/8", false) || try(cidrhost("${to.host}/128", 0) == "::1", false))],
    [for s, to in local.served : "serve: ${s} leads to a target of proxy_protocol, which gets no header of the PROXY protocol with HTTP: use a port of the program that is not listed."
      if startswith(to.kind, "http") && anytrue(flatten([for t, c in local.proxy_cidrs : [for host in to.host == "localhost" ? ["127.0.0.1", "::1"] : [to.host] :
        try(tonumber(regex("[0-9]+$", t)) == to.target && strcontains(c, ":") == strcontains(host, ":") && cidrhost("${host}/${split("/", c)[1]}", 0) == cidrhost(c, 0), false)
    ]]))],
    [for s, to in local.served : "serve: ${s} leads to an address that clients must not reach: ${one([for r in local.unserved_ranges : r.reason
      if strcontains(r.network, ":") == strcontains(to.host, ":") && try(cidrhost("${to.host}/${r.bits}", 0), "") == r.network][*])}."
      if length([for r in local.unserved_ranges : r if strcontains(r.network, ":") == strcontains(to.host, ":") && try(cidrhost("${to.host}/${r.bits}", 0), "") == r.network]) > 0
    ],
  )

  # Durations as Go parses them, in nanoseconds, with the router's bounds.
  # A value "file:PATH" can be read only in the container.
  unit_nanoseconds = { h = 3600000000000, m = 60000000000, s = 1000000000, ms = 1000000, us = 1000, "µs" = 1000, "μs" = 1000, ns = 1 }
  duration_bounds = {
    ROUTER_BOOT_TIMEOUT     = { least = "1s", most = "1h", seconds = [1, 3600] }
    ROUTER_KEEPALIVE        = { least = "10s", most = "2h", seconds = [10, 7200] }
    ROUTER_REFRESH          = { least = "1s", most = "24h", seconds = [1, 86400] }
    ROUTER_TARGET_KEEPALIVE = { least = "10s", most = "2h", seconds = [10, 7200] }
  }
  duration_labels = {
    ROUTER_KEEPALIVE        = var.keepalive != null ? "keepalive" : "environment: ROUTER_KEEPALIVE"
    ROUTER_TARGET_KEEPALIVE = var.target_keepalive != null ? "target_keepalive" : "environment: ROUTER_TARGET_KEEPALIVE"
  }
  given_durations = { for name in keys(local.duration_bounds) : name => trimspace(local.environment[name])
    if !contains(["", "file:"], try(substr(trimspace(local.environment[name]), 0, 5), ""))
  }
  # Elements of ROUTER_KEEPALIVE: a duration, or port=duration.
  keepalives = [for e in split(",", lookup(local.given_durations, "ROUTER_KEEPALIVE", "10s")) : {
    text     = trimspace(e)
    port     = strcontains(e, "=") ? trimspace(split("=", e)[0]) : null
    duration = trimspace(regex("^[^=]*=?(.*)$", strcontains(e, "=") ? e : "=${e}")[0])
  }]
  keepalive_ports = [for k in local.keepalives : k.port == null ? "all" : try(tostring(tonumber(regex("^\\+?([0-9]+)$", k.port)[0])), "malformed") if k.text != ""]
  malformed_keepalives = concat(
    [for i, k in local.keepalives : "${local.duration_labels.ROUTER_KEEPALIVE}: element ${i + 1} is empty: remove the extra comma." if k.text == ""],
    [for k in local.keepalives : "${local.duration_labels.ROUTER_KEEPALIVE}: ${jsonencode(k.text)} has a malformed port: write port=duration, such as 5432=10m."
    if k.port != null && !try(tonumber(regex("^\\+?([0-9]+)$", k.port)[0]) >= 1 && tonumber(regex("^\\+?([0-9]+)$", k.port)[0]) <= 65535, false)],
    length(distinct(local.keepalive_ports)) == length(local.keepalive_ports) ? [] : ["${local.duration_labels.ROUTER_KEEPALIVE}: two elements are for the same ports: keep one of them."],
  )
  durations = concat(
    [for name, d in local.given_durations : { name = name, text = d } if name != "ROUTER_KEEPALIVE"],
    [for k in local.keepalives : { name = "ROUTER_KEEPALIVE", text = k.duration } if k.text != ""],
  )
  nanoseconds = { for d in distinct(local.durations[*].text) : d => sum([for part in regexall("([0-9]*)(\\.[0-9]*)?(h|ms|m|s|us|µs|μs|ns)", d) :
    floor(tonumber("0${part[0]}${part[1] == null ? "" : "${part[1]}0"}") * local.unit_nanoseconds[part[2]])
    ]) if can(regex("^\\+?(([0-9]+\\.?[0-9]*|\\.[0-9]+)(h|ms|m|s|us|µs|μs|ns))+$", d))
  }
  malformed_durations = concat(local.malformed_keepalives, [for d in local.durations :
    "${lookup(local.duration_labels, d.name, "environment: ${d.name}")}: ${jsonencode(d.text)} is not a duration from ${local.duration_bounds[d.name].least} to ${local.duration_bounds[d.name].most}: use one such as 30s, 5m or 1m30s."
    if !try(local.nanoseconds[d.text] >= local.duration_bounds[d.name].seconds[0] * local.unit_nanoseconds.s && local.nanoseconds[d.text] <= local.duration_bounds[d.name].seconds[1] * local.unit_nanoseconds.s, false)
  ])

  # Listeners that are on the loopback address without a host.
  local_listens = { for label, at in {
    "environment: ROUTER_DEBUG_LISTEN" = lookup(var.environment, "ROUTER_DEBUG_LISTEN", "")
    socks5_listen                      = coalesce(var.socks5_listen, " ")
    http_proxy_listen                  = coalesce(var.http_proxy_listen, " ")
  } : label => trimspace(at) if !contains(["", "off"], trimspace(at)) && !startswith(trimspace(at), "file:") }
  listen_form = "(\\[[0-9A-Fa-f:.]+\\]|(${local.dns_label}(\\.${local.dns_label})*\\.?)?):0*[1-9][0-9]{0,4}"
  malformed_listens = [for label, at in local.local_listens : "${label}: ${jsonencode(at)} is not host:port: use one such as 127.0.0.1:6060, or off."
    if !can(regex("^${local.listen_form}$", at)) ||
    try(tonumber(regex("[0-9]+$", at)) > 65535, false) ||
    (startswith(at, "[") && !can(cidrhost("${regex("^\\[(.*)\\]", at)[0]}/128", 0)))
  ]

  # *=HOST stands for all other ports.
  egress_all   = distinct([for e in local.egress : trimspace(regex("=(.*)$", e)[0]) if can(regex("^\\*\\s*=", e))])
  egress_named = [for e in local.egress : e if !can(regex("^\\*\\s*=", e))]
  # A port alone is one of the loopback address.
  egress_ports = { for e in distinct(local.egress_named) : e => {
    listen = replace(trimspace(regex("^([^=/]*)(/(?:tcp|udp))?\\s*=", e)[0]), "/^(0*[1-9][0-9]*)$/", ":$1")
    udp    = try(regex("^[^=/]*(/(?:tcp|udp))?\\s*=", e)[0], null) == "/udp"
    target = trimspace(regex("=(.*)$", e)[0])
  } if can(regex("^[^=/]*(/(?:tcp|udp))?\\s*=", e)) }
  # The listeners that the VPC reaches, as protocol/port. SOCKS5 has UDP at its port, too.
  vpc_ports = distinct(flatten([for l in concat(
    [for name, protocols in { socks5_listen = ["tcp", "udp"], http_proxy_listen = ["tcp"] } : { at = try(local.local_listens[name], ""), protocols = protocols }],
    [for e in values(local.egress_ports) : { at = e.listen, protocols = [e.udp ? "udp" : "tcp"] }],
    ) : [for p in l.protocols : "${p}/${regex("0*([1-9][0-9]*)$", l.at)[0]}"]
    if can(regex("^${local.listen_form}$", l.at)) && !can(regex("^(localhost\\.?|127\\.[0-9.]+)?:", l.at)) && try(cidrhost("${regex("^\\[(.*)\\]", l.at)[0]}/128", 0), "") != "::1"
  ]))
  malformed_egress = concat(
    [for host in local.egress_all : "egress: \"*=${host}\" is not *=HOST: use one such as *=db."
    if !can(regex("^([0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*|${local.dns_label}(\\.${local.dns_label})*\\.?)$", host)) || (strcontains(host, ":") && !can(cidrhost("${host}/128", 0)))],
    length(local.egress_all) > 1 ? ["egress: all other ports have two targets: keep one of them."] : [],
    length(local.egress_all) > 0 && !var.kernel_mode && trimspace(lookup(var.environment, "ROUTER_MODE", "")) != "kernel" ? ["egress: all ports (*=HOST) need kernel mode: set kernel_mode, or name each port, such as 0.0.0.0:5432=db:5432."] : [],
    [for host in local.egress_all : "egress: ${host} is never in the tailnet: use the name or address of a node."
    if length([for r in local.refused_ranges : r if strcontains(r.network, ":") == strcontains(host, ":") && try(cidrhost("${host}/${r.bits}", 0), "") == r.network]) > 0],
    [for e in local.egress_named : "egress: ${jsonencode(e)} is not PORT=HOST:PORT or PORT/udp=HOST:PORT: use one such as 5432=db:5432."
      if !contains(keys(local.egress_ports), e) || anytrue([for at in try([local.egress_ports[e].listen, local.egress_ports[e].target], []) :
        !can(regex("^${local.listen_form}$", at)) || try(tonumber(regex("[0-9]+$", at)) > 65535, false) ||
    (startswith(at, "[") && !can(cidrhost("${regex("^\\[(.*)\\]", at)[0]}/128", 0)))]) || startswith(try(local.egress_ports[e].target, ":"), ":")],
    [for e, p in local.egress_ports : "egress: ${p.target} is never in the tailnet: use the name or address of a node."
      if length([for r in local.refused_ranges : r if strcontains(r.network, ":") == startswith(p.target, "[") &&
    try(cidrhost("${trim(regex("^(.*):[0-9]+$", p.target)[0], "[]")}/${r.bits}", 0), "") == r.network]) > 0],
    length(distinct([for p in values(local.egress_ports) : "${p.udp} ${startswith(p.listen, ":") ? "127.0.0.1" : ""}${p.listen}"])) == length(distinct([for p in values(local.egress_ports) : "${p.udp} ${startswith(p.listen, ":") ? "127.0.0.1" : ""}${p.listen} ${p.target}"])) ? [] : ["egress: a port is forwarded to two targets: keep one of them."],
  )

  other_problems = concat(
    can(regex("^${local.dns_label}$", local.hostname)) ? [] : ["hostname: ${jsonencode(local.hostname)} is not a host name: use at most 63 letters, digits and dashes, without a dash at either end."],
    [for t in local.tailnet_tags : "tailscale_tags: ${jsonencode(t)} is not a tag: use one such as tag:subnet-router." if !can(regex("^tag:[a-zA-Z][a-zA-Z0-9-]*$", t))],
    [for u in local.control_urls : "control_url: ${jsonencode(u)} is not an http or https URL: use one such as https://headscale.example.com."
    if !can(regex("^https?://([A-Za-z0-9._~-]+|\\[[0-9A-Fa-f:.]+\\])(:[0-9]+)?(/([A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*)?$", u))],
    var.auth_secret_json_key != null && try(split(":", var.auth_secret_arn)[7] != "", false) ? ["auth_secret_json_key: auth_secret_arn names a JSON key too: keep one of them."] : [],
    try(tonumber(var.environment["ROUTER_MAX_FLOWS_PER_PEER"]) > tonumber(var.environment["ROUTER_MAX_FLOWS"]), false) ? ["environment: ROUTER_MAX_FLOWS_PER_PEER is above ROUTER_MAX_FLOWS."] : [],
    var.peer_relay_port != null && var.peer_relay_port == var.udp_port ? ["peer_relay_port: it is WireGuard's port (udp_port): use another."] : [],
    length(var.peer_relay_endpoints) > 0 && var.peer_relay_port == null ? ["peer_relay_endpoints: there is no peer relay: set peer_relay_port too."] : [],
    trimspace(lookup(var.environment, "ROUTER_DNS_REBIND_GUARD", "")) == "on" && !var.dns ? ["environment: only the router's own answers are guarded (ROUTER_DNS_REBIND_GUARD): set dns, or remove it."] : [],
    var.dns_register && length(var.dns_zones) == 0 ? ["dns_register: there are no domains to register: set dns_zones to [\"auto\"] or to domains such as corp.example.com."] : [],
  )

  # An address without a length stands for itself; IPv6 may have brackets.
  proxy_cidrs = { for t in distinct(local.proxy_protocol) : t => [for c in [trim(regex("^(.*):[0-9]+$", t)[0], "[]")] : strcontains(c, "/") ? c : "${c}/${strcontains(c, ":") ? 128 : 32}"][0] if can(regex(":[0-9]+$", t)) }
  access_problems = concat(
    var.access_cut && var.access == "off" ? ["access_cut: no flow ends without access = \"grants\": set that too, or remove this."] : [],
    [for t, c in local.proxy_cidrs : "proxy_protocol: ${jsonencode(t)} has no CIDR before the port: use one such as 10.0.3.0/24:443."
    if !can(regex("^([0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*|(0|[1-9][0-9]*)(\\.(0|[1-9][0-9]*)){3})/(0|[1-9][0-9]*)$", c)) || !can(cidrhost(c, 0)) || strcontains(t, "[") != strcontains(t, "]") || (strcontains(c, ":") && try(!strcontains(cidrhost(c, 0), ":"), false))],
    [for t, c in local.proxy_cidrs : "proxy_protocol: ${t} has host bits set: use ${cidrhost(c, 0)}/${split("/", c)[1]}."
    if try(cidrhost(c, 0) != cidrhost("${split("/", c)[0]}/${strcontains(c, ":") ? 128 : 32}", 0), false)],
    [for name, set in { access = var.access != "off", proxy_protocol = length(var.proxy_protocol) > 0 } : "${name}: kernel mode forwards in the kernel, which does not have this setting: remove this, or use userspace mode."
    if set && (var.kernel_mode || trimspace(lookup(var.environment, "ROUTER_MODE", "")) == "kernel")],
  )

  # Kernel mode passes 4via6 alone through the router's own data path, which these settings are for.
  in_kernel = var.site_id == null && (var.kernel_mode || trimspace(lookup(var.environment, "ROUTER_MODE", "")) == "kernel")
  userspace_settings = {
    flow_log         = var.flow_log
    emf              = var.emf
    keepalive        = try(trimspace(var.keepalive), "") != ""
    target_keepalive = try(trimspace(var.target_keepalive), "") != ""
    environment      = anytrue([for n in ["ROUTER_MAX_FLOWS", "ROUTER_MAX_FLOWS_PER_PEER", "ROUTER_KEEPALIVE", "ROUTER_TARGET_KEEPALIVE", "ROUTER_CONGESTION"] : trimspace(lookup(var.environment, n, "")) != ""])
  }
  mode_problems = [for name, set in local.userspace_settings : "${name}: kernel mode forwards in the kernel, which has no flow log, embedded metrics, flow limits, keepalives or TCP settings of the router: remove this, or use userspace mode." if local.in_kernel && set]

  keeps_addresses = can(regex("(^|\\s)-{1,2}snat-subnet-routes=(0|f|F|FALSE|false|False)", var.additional_flags))
  snat_problems   = local.keeps_addresses && !var.kernel_mode && trimspace(lookup(var.environment, "ROUTER_MODE", "")) != "kernel" ? ["additional_flags: only kernel mode keeps the clients' addresses: remove --snat-subnet-routes, or set kernel_mode."] : []

  problems = concat(local.mode_problems, local.snat_problems, local.malformed_sources, local.none_problems, local.malformed_cidrs, local.refused_cidrs, local.whole_families, local.malformed_probes, local.malformed_serve, local.malformed_durations, local.malformed_listens, local.malformed_egress, local.access_problems, local.other_problems)
}
