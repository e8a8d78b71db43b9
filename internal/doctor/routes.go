package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"subnetrouter/internal/bootstrap/routesource"
	"subnetrouter/internal/ops"
)

func (e *exam) findRoutes(ctx context.Context) (routesource.Routes, error) {
	if _, err := e.place.Get(ctx); err != nil && e.Bootstrap.MetadataURI != "" && e.fromMetadata() {
		return routesource.Routes{}, errNoTask
	}
	boot, err := e.boot.Get(ctx)
	if err != nil {
		return routesource.Routes{}, err
	}
	return boot.Routes(ctx)
}

// fromMetadata reports whether a route source needs the task's place.
func (e *exam) fromMetadata() bool {
	return len(e.Config.Routes.NeedPlace()) > 0
}

// noRoutes is the reason of a check that does not apply to a router without routes.
const noRoutes = "the router advertises no routes (ROUTER_ROUTES=none)"

func (e *exam) routesFound(ctx context.Context) Result {
	r, err := e.routes.Get(ctx)
	if errors.Is(err, errNoTask) {
		return skip(err.Error())
	}
	if err != nil {
		return failed(err, awsReach)
	}
	if e.Config.Routes.None() {
		return pass(noRoutes)
	}
	value := "to advertise: " + join(r.Advertise)
	if len(r.Refused) > 0 {
		var refused []string
		for _, x := range r.Refused {
			refused = append(refused, fmt.Sprintf("%s (%s)", x.Prefix, x.Reason))
		}
		return warn(value+"; refused: "+strings.Join(refused, ", "),
			"add the refused prefixes to ROUTER_EXCLUDE_ROUTES, or change ROUTER_ROUTES")
	}
	return pass(value)
}

// cgnat is the range of the tailnet's addresses. A VPC CIDR in it, which AWS allows as a
// secondary CIDR, is refused as a route, and unreachable for kernel-mode clients.
var cgnat = netip.MustParsePrefix("100.64.0.0/10")

// overlaps compares the prefixes of the route sources with each other, with the tailnet's
// addresses, and with the routes of other nodes, if a running router knows them.
func (e *exam) overlaps(ctx context.Context) Result {
	r, err := e.routes.Get(ctx)
	if err != nil {
		return skip("no routes found")
	}
	if e.Config.Routes.None() {
		return skip(noRoutes)
	}
	var found, fixes []string
	for i, a := range r.Explain {
		for _, b := range r.Explain[:i] {
			if a.Prefix != b.Prefix && a.Prefix.Overlaps(b.Prefix) {
				found = append(found, fmt.Sprintf("%s (%s) and %s (%s)", a.Prefix, a.Source, b.Prefix, b.Source))
			}
		}
	}
	inside := len(found)
	for _, p := range r.Advertise {
		if p.Overlaps(cgnat) {
			found = append(found, fmt.Sprintf("%s and the tailnet's addresses %s", p, cgnat))
			fixes = append(fixes, "leave it out with ROUTER_EXCLUDE_ROUTES, or set ROUTER_SITE_ID")
		}
	}
	others, known := e.otherRoutes(ctx)
	for _, o := range others {
		q, err := netip.ParsePrefix(o.Prefix)
		for _, p := range r.Advertise {
			// The same prefix is advertised by peer routers, for high availability.
			if err == nil && p != q && p.Overlaps(q) {
				found = append(found, fmt.Sprintf("%s and %s of %s", p, q, o.Node))
				fixes = append(fixes, "clients use the longer prefix: exclude one of them, or distinguish the VPCs with ROUTER_SITE_ID")
			}
		}
	}
	against := "each other and " + cgnat.String()
	if known {
		against += " and " + count(len(others), "route", "routes") + " of other nodes"
	}
	switch {
	case len(found) == 0:
		return pass("none with " + against)
	case len(found) == inside: // one router forwards both, whatever the source
		return pass("only between its own sources, which it merges: " + strings.Join(found, ", "))
	}
	return warn(strings.Join(found, ", "), strings.Join(unique(fixes), "; "))
}

// otherRoutes returns the routes of other nodes, if a running router knows them.
func (e *exam) otherRoutes(ctx context.Context) (list []ops.OtherRoute, known bool) {
	s, err := e.status.Get(ctx)
	if err != nil || s.Node.State != "Running" {
		return nil, false
	}
	return s.OtherRoutes, true
}

func unique(list []string) (out []string) {
	for _, s := range list {
		if !contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// approval reports which routes the tailnet approved, which only a running router knows.
func (e *exam) approval(ctx context.Context) Result {
	if e.Config.Routes.None() {
		return skip(noRoutes)
	}
	s, err := e.status.Get(ctx)
	if err != nil {
		if r, err := e.routes.Get(ctx); err == nil {
			res := skip("unknown until a router runs")
			res.Fix = "to have them approved automatically, add to the policy file: " + e.Approve(r.Advertise)
			return res
		}
		return skip("unknown until a router runs")
	}
	var approved, missing []netip.Prefix
	primary := 0
	for _, r := range s.Routes {
		p, err := netip.ParsePrefix(r.Prefix)
		if err != nil || !r.Advertised {
			continue
		}
		if r.Approved {
			approved = append(approved, p)
		} else {
			missing = append(missing, p)
		}
		if r.Primary {
			primary++
		}
	}
	switch {
	case len(missing) > 0:
		return fail("not approved: "+join(missing), "approve them in the admin console, or add to the policy file: "+e.Approve(missing))
	case len(approved) == 0:
		return skip("the router advertises nothing yet")
	}
	return pass(fmt.Sprintf("%s approved, this router is primary for %d", count(len(approved), "route", "routes"), primary))
}

func join(ps []netip.Prefix) string {
	const maxShown = 20
	var out []string
	for i, p := range ps {
		if i == maxShown {
			out = append(out, fmt.Sprintf("%d more", len(ps)-maxShown))
			break
		}
		out = append(out, p.String())
	}
	return strings.Join(out, ", ")
}

// resolver checks that the VPC's resolver answers this task, and is in an advertised route. With
// ROUTER_DNS the router asks it for the clients.
func (e *exam) resolver(ctx context.Context) Result {
	r, err := e.routes.Get(ctx)
	if err != nil {
		return skip("no routes found")
	}
	if e.Config.Routes.None() {
		return skip(noRoutes)
	}
	boot, err := e.boot.Get(ctx)
	if err != nil {
		return skip(err.Error())
	}
	resolver, ok := boot.Resolver(ctx, r)
	switch {
	case !ok && e.Config.DNS:
		return warn("ROUTER_DNS is on, but the VPC's resolver is unknown", "add vpc to ROUTER_ROUTES, or use the network mode awsvpc")
	case !ok:
		return skip("the VPC's resolver is unknown")
	}
	value := fmt.Sprintf("%s (%s)", resolver.Addr, resolver.Source)
	took, err := e.askResolver(ctx, resolver.Addr)
	switch {
	case err != nil:
		return warn(value+" does not answer: "+netCause(err),
			"private names will not resolve: enable DNS in the VPC (enableDnsSupport), or allow outbound UDP and TCP 53 to it")
	case !resolver.Route.IsValid() && e.Config.DNS:
		return warn(value+" answers, but is in no advertised route, so that no client uses the router's DNS",
			fmt.Sprintf("take it out of ROUTER_EXCLUDE_ROUTES, or add %s/%d to ROUTER_ROUTES", resolver.Addr, resolver.Addr.BitLen()))
	case !resolver.Route.IsValid():
		return warn(value+" answers, but is in no advertised route",
			fmt.Sprintf("add %s/%d to ROUTER_ROUTES, so that clients can use it for private zones", resolver.Addr, resolver.Addr.BitLen()))
	}
	if e.Config.DNS {
		value += ", whose queries the router answers,"
	}
	return pass(fmt.Sprintf("%s answers in %v; clients use %s in split DNS", value, took.Round(100*time.Microsecond), resolver.Through))
}

// zones checks that the zones for split DNS can be looked up.
func (e *exam) zones(ctx context.Context) Result {
	if e.Config.Zones.None() {
		return skip("ROUTER_DNS_ZONES is not set; auto lists the VPC's zones for split DNS")
	}
	boot, err := e.boot.Get(ctx)
	if err != nil {
		return skip(err.Error())
	}
	found, err := boot.Zones(ctx)
	value := count(len(found.List), "zone", "zones")
	if names := found.Names(); len(names) > 0 {
		const maxShown = 10
		value += ": " + strings.Join(names[:min(len(names), maxShown)], ", ")
	}
	if more := len(found.List) - 10; more > 0 {
		value += fmt.Sprintf(" and %d more", more)
	}
	switch {
	case err != nil:
		r := failed(err, "list the domains in ROUTER_DNS_ZONES instead of auto")
		return warn(value+"; "+r.Value, r.Fix)
	case len(found.Notes) > 0:
		return warn(value, strings.Join(found.Notes, "; "))
	case len(found.List) == 0:
		return warn("no zone found", "associate a private hosted zone with the VPC, or list the domains in ROUTER_DNS_ZONES")
	}
	return pass(value + "; router plan prints the split DNS for them")
}

// askResolver returns the time to an answer. Any answer counts, NXDOMAIN included.
func (e *exam) askResolver(ctx context.Context, a netip.Addr) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return e.DialResolver(ctx, network, netip.AddrPortFrom(a, 53).String())
	}}
	start := time.Now()
	_, err := r.LookupNetIP(ctx, "ip", "amazonaws.com.") // the dot: no search list
	took := time.Since(start)
	if dns := (*net.DNSError)(nil); errors.As(err, &dns) && (dns.IsNotFound || strings.Contains(dns.Err, "server misbehaving")) {
		return took, nil
	}
	return took, err
}
