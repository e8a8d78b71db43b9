package bootstrap

import (
	"context"
	"net/netip"
	"slices"

	"subnetrouter/internal/routes"
)

// Resolver is the VPC's DNS resolver, which knows Route 53's private zones.
type Resolver struct {
	Addr    netip.Addr   // in the VPC
	Source  string       // how it is known
	Through netip.Addr   // where clients ask it: Addr, or its 4via6 address
	Route   netip.Prefix // the advertised route that leads there; zero is none
}

// Resolver finds the VPC's resolver; ok is false where nothing tells it, as
// outside ECS. It asks nothing but task metadata, read before.
func (b *Bootstrap) Resolver(ctx context.Context, r Routes) (resolver Resolver, ok bool) {
	resolver.Addr, resolver.Source, ok = b.resolverAddr(ctx)
	if !ok {
		return Resolver{}, false
	}
	a := resolver.Addr
	resolver.Through = b.advertised(netip.PrefixFrom(a, a.BitLen())).Addr()
	i := slices.IndexFunc(r.Advertise, func(p netip.Prefix) bool { return p.Contains(resolver.Through) })
	if i >= 0 {
		resolver.Route = r.Advertise[i]
	}
	return resolver, true
}

// resolverAddr takes the task's own first name server that a route can lead
// to: 169.254.169.253, also the VPC's resolver, is none. Else AWS's rule counts,
// the VPC's first address plus two.
func (b *Bootstrap) resolverAddr(ctx context.Context) (a netip.Addr, source string, ok bool) {
	if place, err := b.Place(ctx); err == nil {
		for _, a := range place.Network.DNS {
			if _, denied := routes.Denied(a); !denied {
				return a, "task metadata", true
			}
		}
	}
	if vpc := b.primary.Load(); vpc != nil && vpc.IsValid() {
		return vpc.Addr().Next().Next(), "AWS's rule: " + vpc.String() + " plus two", true
	}
	return netip.Addr{}, "", false
}
