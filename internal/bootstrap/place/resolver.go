package place

import (
	"context"
	"net/netip"

	"subnetrouter/internal/routes"
)

// Resolver returns the address of the VPC's DNS resolver, which knows Route 53's
// private zones, and how it is known. ok is false where it is unknown, as outside
// ECS. It looks nothing up but task metadata.
//
// The task's own first name server counts that a route can lead to; so not
// 169.254.169.253, which is the VPC's resolver, too. Without one AWS's rule does:
// the VPC's first address plus two.
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
