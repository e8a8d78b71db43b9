package router

import (
	"fmt"

	"subnetrouter/internal/bootstrap/routesource"
	"subnetrouter/internal/ops"
)

// exampleZone stands for a private zone, whose name the router does not know.
const exampleZone = "internal.example.com"

// describeDNS returns the settings of the tailnet with which clients resolve the private
// zones of the VPC.
func describeDNS(r routesource.Resolver) *ops.DNS {
	d := &ops.DNS{
		Resolver: r.Addr.String(), Source: r.Source, Nameserver: r.Through.String(),
		Terraform: fmt.Sprintf(`resource "tailscale_dns_split_nameservers" "vpc" {
  domain      = %q # your private zone
  nameservers = [%q]
}
`, exampleZone, r.Through),
	}
	if !r.Route.IsValid() {
		d.SplitDNS = fmt.Sprintf("the VPC's resolver %s (%s) is in no advertised route: add %s/%d to ROUTER_ROUTES, then make it the nameserver of your private zones.",
			d.Resolver, d.Source, d.Resolver, r.Addr.BitLen())
		return d
	}
	d.Route = r.Route.String()
	d.SplitDNS = fmt.Sprintf("the VPC's resolver %s (%s) is in the advertised route %s. In the admin console, under DNS, add the custom nameserver %s restricted (split DNS) to each private zone, such as %s.",
		d.Resolver, d.Source, d.Route, d.Nameserver, exampleZone)
	if r.Through != r.Addr {
		d.SplitDNS += " It answers with the VPC's IPv4 addresses, which clients reach by their 4via6 names only."
	}
	return d
}
