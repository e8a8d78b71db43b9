package routesource

import (
	"context"
	"net/netip"
	"slices"
)

// Resolver is the VPC's DNS resolver, which resolves Route 53's private zones.
type Resolver struct {
	Addr    netip.Addr   // in the VPC
	Source  string       // of the address
	Through netip.Addr   // the address for clients: Addr, or its 4via6 address
	Route   netip.Prefix // the advertised route that contains Through; zero means none
}

// resolverRoute returns a route to the VPC's resolver if one is asked for, the resolver is known, and
// none of routes leads to it.
func (f *Finder) resolverRoute(ctx context.Context, routes []Route) []Route {
	if !f.config.Resolver {
		return nil
	}
	a, source, ok := f.config.Place.Resolver(ctx)
	if !ok || slices.ContainsFunc(routes, func(r Route) bool { return r.Prefix.Contains(a) }) {
		return nil
	}
	return []Route{{Prefix: netip.PrefixFrom(a, a.BitLen()), Origin: FromAWS, Source: "ROUTER_DNS, the VPC's resolver (" + source + ")"}}
}

// Resolver returns the VPC's resolver with the route of r to it; ok is false if it is
// unknown, as outside ECS, or if clients cannot reach it since there are no routes. It looks up
// only task metadata.
func (f *Finder) Resolver(ctx context.Context, r Routes) (resolver Resolver, ok bool) {
	if f.config.None() {
		return Resolver{}, false
	}
	resolver.Addr, resolver.Source, ok = f.config.Place.Resolver(ctx)
	if !ok {
		return Resolver{}, false
	}
	a := resolver.Addr
	resolver.Through = f.advertised(netip.PrefixFrom(a, a.BitLen())).Addr()
	i := slices.IndexFunc(r.Advertise, func(p netip.Prefix) bool { return p.Contains(resolver.Through) })
	if i >= 0 {
		resolver.Route = r.Advertise[i]
	}
	return resolver, true
}
