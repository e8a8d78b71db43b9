package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"subnetrouter/internal/bootstrap/credential"
	"subnetrouter/internal/bootstrap/credential/payload"
	"subnetrouter/internal/bootstrap/identity"
	"subnetrouter/internal/bootstrap/routesource"
	"subnetrouter/internal/proxyproto"
	"subnetrouter/internal/routes"
)

// check reports conflicts between settings that are each well formed. It skips settings
// with a problem of their own, which has to be fixed first.
func check(c *Config, given map[string]setting, r *report) {
	checkCredential(c, given, r)
	checkAuthKey(c, given, r)
	checkRoutes(c, given, r)
	checkNoRoutes(c, given, r)
	// A router outside ECS with settings of its own is called subnet-router. The name of its host is no substitute: in
	// Docker it is the container's ID, which would rename the node at each start.
	c.HostsName = c.Hostname == "" && c.MetadataURI == "" && official(given)
	checkMetadata(c, given, r)
	checkDNS(c, given, r)
	checkIdentity(c, given, r)
	checkZones(c, given, r)
	checkRegister(c, given, r)
	checkMode(c, given, r)
	checkPeerRelay(c, given, r)
	checkProbes(c, given, r)
	checkServe(c, given, r)
	checkEgress(c, given, r)
	checkAccess(c, given, r)

	if perPeer := given["ROUTER_MAX_FLOWS_PER_PEER"]; c.MaxFlows > 0 && c.MaxFlowsPerPeer > c.MaxFlows && !r.bad("ROUTER_MAX_FLOWS_PER_PEER") {
		r.problemf("ROUTER_MAX_FLOWS_PER_PEER", perPeer.name, fmt.Sprintf("%q is more than %s, which is %d: use at most that", perPeer.value, given["ROUTER_MAX_FLOWS"].name, c.MaxFlows))
	}
	if drain := given["ROUTER_DRAIN_TIMEOUT"]; c.DrainTimeout > maxDrain {
		r.warn(drain.name, fmt.Sprintf("%q leaves too little of the stopTimeout, which is at most 120s on Fargate: use %s or less unless the task's stopTimeout is longer", drain.value, short(maxDrain)))
	}
}

// Fargate kills a task 120s after SIGTERM at the latest (stopTimeout); logging
// out and closing take a few seconds after the drain.
const maxDrain = 110 * time.Second

// checkCredential requires exactly one credential source.
func checkCredential(c *Config, given map[string]setting, r *report) {
	var set, spelled []string
	for _, name := range credential.Variables() {
		if s, ok := given[name]; ok {
			set, spelled = append(set, name), append(spelled, s.name)
		}
	}
	_, audience := given["TS_AUDIENCE"]
	switch {
	case len(set) > 1:
		r.problemf(set[0], spelled[0], "set together with "+strings.Join(spelled[1:], " and ")+": keep one of them")
	case len(set) == 0 && !audience && !identity.Lasting(c.Identity.Source) && !r.bad("ROUTER_STATE"):
		r.problemf("ROUTER_AUTH_SECRET", "ROUTER_AUTH_SECRET", "there is no credential to join the tailnet with: "+credential.Advice())
	}

	if id, ok := given["TS_CLIENT_ID"]; ok && c.Credential.Audience == "" && !r.bad("TS_CLIENT_ID") && !r.bad("TS_AUDIENCE") {
		r.problemf("TS_CLIENT_ID", id.name, "set without TS_AUDIENCE: set both")
	}
	if audience, ok := given["TS_AUDIENCE"]; ok && given["TS_CLIENT_ID"].name == "" && !r.bad("TS_AUDIENCE") {
		r.problemf("TS_AUDIENCE", audience.name, "set without TS_CLIENT_ID: set both")
	}

	key, ok := given["ROUTER_AUTH_SECRET_KEY"]
	switch {
	case !ok:
	case given["ROUTER_AUTH_SECRET"].name == "":
		r.problemf("ROUTER_AUTH_SECRET_KEY", key.name, "set without ROUTER_AUTH_SECRET: set that too, or remove this")
	case c.Credential.Secret.JSONKey != "":
		r.problemf("ROUTER_AUTH_SECRET_KEY", key.name, fmt.Sprintf("%s names a JSON key too (%s): keep one of them", given["ROUTER_AUTH_SECRET"].name, quote(c.Credential.Secret.JSONKey)))
	}
}

// checkAuthKey parses a literal credential as the router will, so that one that can never
// work is reported before anything starts.
func checkAuthKey(c *Config, given map[string]setting, r *report) {
	s, ok := given["TS_AUTHKEY"]
	if !ok || r.bad("TS_AUTHKEY") || r.bad("ROUTER_CONTROL_URL") || r.bad("ROUTER_API_URL") {
		return
	}
	found, err := payload.ParseLiteral(c.Credential.AuthKey.Reveal(), payload.Foreign(c.ControlURL))
	if err == nil && found.Client != nil {
		_, err = found.Client.Attributes.API(c.Credential.APIURL)
	}
	if err != nil {
		r.problem("TS_AUTHKEY", s.name, err)
		return
	}
	if found.Client == nil {
		if c.DNSRegister && !r.bad("ROUTER_DNS_REGISTER") {
			r.problemf("ROUTER_DNS_REGISTER", given["ROUTER_DNS_REGISTER"].name, s.name+" is an auth key, which cannot change the tailnet's split DNS: use an OAuth client or a federated identity with the scope dns, or set it to off")
		}
		return
	}
	if ephemeral := found.Client.Attributes.Ephemeral; ephemeral != nil && !*ephemeral && !identity.Lasting(c.Identity.Source) && !r.bad("ROUTER_STATE") {
		r.warn(s.name, "ephemeral=false with ROUTER_STATE=mem:: each start adds a node to the tailnet that nothing removes; drop the attribute, or keep state")
	}
}

// checkRoutes refuses configured CIDRs that may not be advertised, alone or taken
// together: two halves can form a default route.
func checkRoutes(c *Config, given map[string]setting, r *report) {
	if r.bad("ROUTER_ROUTES") || r.bad("ROUTER_SITE_ID") {
		return
	}
	var (
		static []netip.Prefix
		errs   []error
	)
	for _, s := range c.Routes.Sources {
		source, ok := s.(routesource.CIDR)
		if !ok {
			continue
		}
		p := source.Prefix
		if site := c.Routes.Site; site != nil && p.Addr().Is4() {
			p, _ = routes.Via(*site, p)
		}
		static = append(static, source.Prefix)
		if err := routes.Refuse(p); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) == 0 {
		for _, p := range routes.Normalize(static) {
			if err := routes.Refuse(p); p.Bits() == 0 && err != nil {
				errs = append(errs, fmt.Errorf("taken together, %w", err))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		r.problem("ROUTER_ROUTES", given["ROUTER_ROUTES"].name, err)
	}
}

// checkNoRoutes refuses settings that have no effect in a router without routes.
func checkNoRoutes(c *Config, given map[string]setting, r *report) {
	if !c.Routes.None() || r.bad("ROUTER_ROUTES") {
		return
	}
	for _, s := range []struct {
		name string
		used bool
	}{
		{"ROUTER_EXCLUDE_ROUTES", len(c.Routes.Exclude) > 0},
		{"ROUTER_SITE_ID", c.Routes.Site != nil},
		{"ROUTER_DNS", c.DNS},
		{"ROUTER_DNS_ZONES", !c.Zones.None()},
	} {
		if s.used && !r.bad(s.name) {
			r.problemf(s.name, given[s.name].name, "has no effect without routes: remove it, or set "+given["ROUTER_ROUTES"].name+" to routes")
		}
	}
}

// checkMetadata refuses sources that need task metadata if there is none. With variables of the official
// image only, the default is that image's: no routes.
func checkMetadata(c *Config, given map[string]setting, r *report) {
	if c.MetadataURI != "" || r.bad(metadataURI) || r.bad("ROUTER_ROUTES") {
		return
	}
	var sources []string
	for _, s := range c.Routes.NeedPlace() {
		sources = append(sources, fmt.Sprintf("%q", s))
	}
	if len(sources) == 0 {
		return
	}
	name, which := "ROUTER_ROUTES", "the default "
	if s, ok := given["ROUTER_ROUTES"]; ok {
		name, which = s.name, ""
	} else if official(given) {
		c.Routes.Sources = []routesource.Source{routesource.None{}}
		r.warn("TS_ROUTES", "not set: no routes are advertised, as by the official image; with ROUTER_ROUTES=none this is not a warning")
		return
	}
	r.problemf("ROUTER_ROUTES", name, fmt.Sprintf("%s%s cannot be looked up outside ECS (%s is not set): write CIDRs such as 10.0.0.0/16, or run on ECS", which, strings.Join(sources, ", "), metadataURI))
}

// official reports whether all settings have names of the official image.
func official(given map[string]setting) bool {
	for _, s := range given {
		if !strings.HasPrefix(s.name, "TS_") {
			return false
		}
	}
	return true
}

// checkDNS refuses settings of DNS that can have no effect.
func checkDNS(c *Config, given map[string]setting, r *report) {
	on := given["ROUTER_DNS"]
	if c.DNS && c.MetadataURI == "" && !r.bad(metadataURI) && !r.bad("ROUTER_DNS") {
		r.problemf("ROUTER_DNS", on.name, fmt.Sprintf("the VPC's resolver cannot be found outside ECS (%s is not set): remove this, or run on ECS", metadataURI))
	}
	if guard := given["ROUTER_DNS_REBIND_GUARD"]; c.DNSRebindGuard && !c.DNS && !r.bad("ROUTER_DNS") {
		r.problemf("ROUTER_DNS_REBIND_GUARD", guard.name, "only the router's own answers are guarded: set ROUTER_DNS=on too, or remove this")
	}
}

// checkAccess refuses settings of access that can have no effect, or not the one that their names promise.
func checkAccess(c *Config, given map[string]setting, r *report) {
	on := given["ROUTER_ACCESS"]
	if c.Access != AccessOff && c.MetadataURI == "" && !r.bad(metadataURI) && !r.bad("ROUTER_ACCESS") {
		r.problemf("ROUTER_ACCESS", on.name, fmt.Sprintf("the VPC of the targets cannot be looked up outside ECS (%s is not set): remove this, or run on ECS", metadataURI))
	}
	if cut := given["ROUTER_ACCESS_CUT"]; c.AccessCut && c.Access == AccessOff && !r.bad("ROUTER_ACCESS") && !r.bad("ROUTER_ACCESS_CUT") {
		r.problemf("ROUTER_ACCESS_CUT", cut.name, "no flow ends without ROUTER_ACCESS=grants: set that too, or remove this")
	}
	if c.Mode != ModeKernel {
		return
	}
	// Unlike limits, these may not apply to a part of the traffic only.
	const kernel = "kernel mode forwards in the kernel, which does not have this setting: remove it, or set ROUTER_MODE=userspace"
	if c.Access != AccessOff && !r.bad("ROUTER_ACCESS") {
		r.problemf("ROUTER_ACCESS", on.name, kernel)
	}
	if proxy, ok := given["ROUTER_PROXY_PROTOCOL"]; ok && !r.bad("ROUTER_PROXY_PROTOCOL") {
		r.problemf("ROUTER_PROXY_PROTOCOL", proxy.name, kernel)
	}
}

// checkIdentity refuses settings of the identity that contradict each other, or that cannot be
// completed outside ECS.
func checkIdentity(c *Config, given map[string]setting, r *report) {
	state := given["ROUTER_STATE"]
	if r.bad("ROUTER_STATE") {
		return
	}
	if missing := identity.NeedsPlace(c.Identity.Source); missing != "" && c.MetadataURI == "" && !r.bad(metadataURI) {
		r.problemf("ROUTER_STATE", state.name, fmt.Sprintf("%s needs %s outside ECS (%s is not set)", quote(state.value), missing, metadataURI))
	}
	from, ok := given["ROUTER_STATE_IMPORT"]
	if !ok || r.bad("ROUTER_STATE_IMPORT") {
		return
	}
	if !identity.Imports(c.Identity.Source) {
		r.problemf("ROUTER_STATE_IMPORT", from.name, "only a table imports a node: set ROUTER_STATE=dynamodb:TABLE too, or remove this")
	}
}

// checkZones refuses to look up the zones of a VPC without task metadata.
func checkZones(c *Config, given map[string]setting, r *report) {
	if c.Zones.Auto && c.MetadataURI == "" && !r.bad(metadataURI) && !r.bad("ROUTER_DNS_ZONES") {
		r.problemf("ROUTER_DNS_ZONES", given["ROUTER_DNS_ZONES"].name, fmt.Sprintf("\"auto\" cannot be looked up outside ECS (%s is not set): write domains such as corp.example.com, or run on ECS", metadataURI))
	}
}

// checkRegister refuses to register split DNS without domains for it.
func checkRegister(c *Config, given map[string]setting, r *report) {
	if c.DNSRegister && c.Zones.None() && !r.bad("ROUTER_DNS_REGISTER") && !r.bad("ROUTER_DNS_ZONES") {
		r.problemf("ROUTER_DNS_REGISTER", given["ROUTER_DNS_REGISTER"].name, "\"on\" has no domains to register: set ROUTER_DNS_ZONES to auto or to domains such as corp.example.com")
	}
}

// checkProbes refuses targets that can never succeed.
func checkProbes(c *Config, given map[string]setting, r *report) {
	for _, target := range c.Probes {
		host, _, _ := net.SplitHostPort(target)
		if a, err := netip.ParseAddr(host); err == nil {
			if reason, denied := routes.Denied(a); denied {
				r.problemf("ROUTER_PROBE", given["ROUTER_PROBE"].name, fmt.Sprintf("%q cannot be reached through the router (%s), so it does not test the VPC: use a target behind the router", target, reason))
			}
		}
	}
}

// checkServe refuses ports that have another use, and targets that must not be reached from the tailnet.
func checkServe(c *Config, given map[string]setting, r *report) {
	name := given["ROUTER_SERVE"].name
	own := map[string]string{} // the router's listeners by port
	add := func(variable, address string) {
		if _, port, err := net.SplitHostPort(address); err == nil && !r.bad(variable) {
			own[port] = variable
		}
	}
	for _, p := range c.Egress {
		add("ROUTER_EGRESS", p.Listen)
	}
	add("ROUTER_SOCKS5_LISTEN", c.SOCKS5Listen)
	add("ROUTER_HTTP_PROXY_LISTEN", c.HTTPProxyListen)
	add("ROUTER_DEBUG_LISTEN", c.DebugListen)
	add("ROUTER_LISTEN", c.Listen)
	seen := map[uint16]bool{}
	warnServeNames(c, name, r)
	for _, s := range c.Serve {
		element := s.String()
		if seen[s.Port] && s.Port == 0 {
			r.problemf("ROUTER_SERVE", name, fmt.Sprintf("%q: all other ports have two targets: keep one", element))
		} else if seen[s.Port] {
			r.problemf("ROUTER_SERVE", name, fmt.Sprintf("port %d has two targets: keep one", s.Port))
		}
		seen[s.Port] = true
		if c.TailnetStatus && own[strconv.Itoa(int(s.Port))] == "ROUTER_LISTEN" {
			r.problemf("ROUTER_SERVE", name, fmt.Sprintf("%q: with ROUTER_TAILNET_STATUS=on this port has the status: use another port, or change ROUTER_LISTEN", element))
		}
		host, port := s.Target, ""
		if s.Port != 0 {
			host, port, _ = net.SplitHostPort(s.Target)
		}
		a, err := netip.ParseAddr(host)
		local := host == "localhost" || err == nil && a.IsLoopback()
		if s.Kind.HTTP() && c.proxied(host, port) {
			r.problemf("ROUTER_SERVE", name, fmt.Sprintf("%q: ROUTER_PROXY_PROTOCOL lists the target, which gets no header of the PROXY protocol with HTTP: let the program read X-Forwarded-For and Tailscale-User-Login at a port that is not listed", element))
		}
		if local && own[port] != "" {
			r.problemf("ROUTER_SERVE", name, fmt.Sprintf("%q leads to the router's own listener (%s): use ROUTER_TAILNET_STATUS=on for the status, or another port", element, own[port]))
		}
		if err == nil && !local {
			if reason, denied := routes.Denied(a); denied {
				r.problemf("ROUTER_SERVE", name, fmt.Sprintf("%q leads to an address that clients must not reach (%s): use localhost, or an address in the VPC", element, reason))
			}
		}
	}
}

// proxied reports whether a target that is an address or localhost is in ROUTER_PROXY_PROTOCOL.
func (c *Config) proxied(host, port string) bool {
	hosts := []string{host}
	if host == "localhost" {
		hosts = []string{"127.0.0.1", "::1"}
	}
	return slices.ContainsFunc(hosts, func(host string) bool {
		target, err := netip.ParseAddrPort(net.JoinHostPort(host, port))
		return err == nil && slices.ContainsFunc(c.ProxyProtocol, func(t proxyproto.Target) bool { return t.Contains(target) })
	})
}

// checkPeerRelay refuses a peer relay at WireGuard's port, and endpoints without a relay.
func checkPeerRelay(c *Config, given map[string]setting, r *report) {
	relay := given["ROUTER_PEER_RELAY"]
	if c.PeerRelay != 0 && c.PeerRelay == c.UDPPort && !r.bad("ROUTER_PEER_RELAY") && !r.bad("ROUTER_UDP_PORT") {
		r.problemf("ROUTER_PEER_RELAY", relay.name, fmt.Sprintf("%q is WireGuard's port (ROUTER_UDP_PORT): use another, such as 40000", relay.value))
	}
	if endpoints, ok := given["ROUTER_PEER_RELAY_ENDPOINTS"]; ok && c.PeerRelay == 0 && !r.bad("ROUTER_PEER_RELAY") && !r.bad("ROUTER_PEER_RELAY_ENDPOINTS") {
		r.problemf("ROUTER_PEER_RELAY_ENDPOINTS", endpoints.name, "there is no peer relay: set ROUTER_PEER_RELAY to its port too, or remove this")
	}
}

// checkEgress refuses targets that are never in the tailnet, and a port that is forwarded twice.
func checkEgress(c *Config, given map[string]setting, r *report) {
	name := given["ROUTER_EGRESS"].name
	if all := c.EgressAll; all != "" {
		if c.Mode != ModeKernel && !r.bad("ROUTER_MODE") {
			r.problemf("ROUTER_EGRESS", name, fmt.Sprintf("\"*=%s\" needs kernel mode: set ROUTER_MODE=kernel, or name each port, such as 0.0.0.0:5432=%s", all, net.JoinHostPort(all, "5432")))
		}
		if a, err := netip.ParseAddr(all); err == nil {
			if reason, denied := routes.Denied(a); denied {
				r.problemf("ROUTER_EGRESS", name, fmt.Sprintf("%q is never in the tailnet (%s): use the name or address of a node", all, reason))
			}
		}
	}
	seen := map[EgressPort]string{}
	for _, p := range c.Egress {
		host, _, _ := net.SplitHostPort(p.Target)
		if a, err := netip.ParseAddr(host); err == nil {
			if reason, denied := routes.Denied(a); denied {
				r.problemf("ROUTER_EGRESS", name, fmt.Sprintf("%q is never in the tailnet (%s): use the name or address of a node", p.Target, reason))
			}
		}
		at := EgressPort{Listen: p.Listen, UDP: p.UDP}
		if other, twice := seen[at]; twice {
			r.problemf("ROUTER_EGRESS", name, fmt.Sprintf("%s is forwarded to %q and %q: keep one of them", p.Listen, other, p.Target))
		}
		seen[at] = p.Target
	}
}

// userspaceSettings are settings of the router's own data path, which kernel mode uses for 4via6 only.
var userspaceSettings = []string{
	"ROUTER_FLOW_LOG", "ROUTER_EMF", "ROUTER_MAX_FLOWS", "ROUTER_MAX_FLOWS_PER_PEER", "ROUTER_KEEPALIVE", "ROUTER_TARGET_KEEPALIVE", "ROUTER_CONGESTION",
}

// checkMode refuses settings that the mode cannot honor.
func checkMode(c *Config, given map[string]setting, r *report) {
	if !c.SNAT && c.Mode != ModeKernel {
		r.problemf(extraArgs, extraArgs+" --snat-subnet-routes", "userspace mode always replaces the clients' addresses: remove this, or set ROUTER_MODE=kernel")
	}
	if c.Mode != ModeKernel || c.Routes.Site != nil || r.bad("ROUTER_SITE_ID") {
		return
	}
	for _, name := range userspaceSettings {
		off := name == "ROUTER_FLOW_LOG" && !c.FlowLog || name == "ROUTER_EMF" && !c.EMF
		if s, ok := given[name]; ok && !r.bad(name) && !off {
			r.problemf(name, s.name, "kernel mode forwards in the kernel, which does not have this setting: remove it, or set ROUTER_MODE=userspace")
		}
	}
}
