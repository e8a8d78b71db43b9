package place

import (
	"context"
	"net/netip"

	"subnetrouter/internal/routes"
)

// Resolver returns the address of the VPC's DNS resolver, which resolves Route 53's private
// zones, and the source of the address. ok is false if it is unknown, as outside ECS. It
// looks up only task metadata.
//
// It is the first name server of the task that a route can lead to, and so not
// 169.254.169.253, another address of the VPC's resolver. If the task has none, AWS's rule
// applies: the VPC's first address plus two.
func (f *Finder) Resolver(ctx context.Context) (a netip.Addr, source string, ok bool) {
	if p, err := f.Place(ctx); err == nil {
		for _, a := range p.Network.DNS {
			if _, denied := routes.Denied(a); !denied {
				return a, "task metadata", true
			}
		}
	}
	if vpc := f.primary.Load(); vpc != nil && vpc.IsValid() {
		return vpc.Addr().Next().Next(), "AWS's rule: " + vpc.String() + " plus two", true
	}
	return netip.Addr{}, "", false
}
