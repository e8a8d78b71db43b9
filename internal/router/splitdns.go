package router

import (
	"fmt"
	"strings"

	"subnetrouter/internal/bootstrap/routesource"
	"subnetrouter/internal/bootstrap/zones"
	"subnetrouter/internal/ops"
)

// exampleZone stands for a private zone while no zone is known.
const exampleZone = "internal.example.com"

// describeDNS returns the settings of the tailnet with which clients resolve the private
// zones of the VPC. It returns nil if neither the VPC's resolver, which may be nil, nor a zone
// is known. answered is ROUTER_DNS, and site the 4via6 site, nil for none.
func describeDNS(r *routesource.Resolver, z zones.Zones, answered bool, site *uint32) *ops.DNS {
	if r == nil && len(z.List) == 0 && len(z.Notes) == 0 {
		return nil
	}
	d := &ops.DNS{Notes: z.Notes}
	for _, zone := range z.List {
		d.Zones = append(d.Zones, ops.Zone{Name: zone.Name, Source: zone.Source})
	}
	if r == nil {
		d.SplitDNS = "the VPC's resolver is unknown: it is the first address of the VPC's IPv4 CIDR plus two. Add it to ROUTER_ROUTES and make it the nameserver of " + domains(z.Names()) + "."
		return d
	}
	d.Resolver, d.Source, d.Nameserver, d.Answered = r.Addr.String(), r.Source, r.Through.String(), answered
	d.Terraform = terraformDNS(d.Nameserver, z.Names())
	if !r.Route.IsValid() {
		d.SplitDNS = fmt.Sprintf("the VPC's resolver %s (%s) is in no advertised route: add %s/%d to ROUTER_ROUTES, then make it the nameserver of %s.",
			d.Resolver, d.Source, d.Resolver, r.Addr.BitLen(), domains(z.Names()))
		return d
	}
	d.Route = r.Route.String()
	where := "each private zone, such as " + exampleZone
	if len(z.List) > 0 {
		where = domains(z.Names())
	}
	d.SplitDNS = fmt.Sprintf("the VPC's resolver %s (%s) is in the advertised route %s. In the admin console, under DNS, add the custom nameserver %s restricted (split DNS) to %s.",
		d.Resolver, d.Source, d.Route, d.Nameserver, where)
	switch {
	case answered && site != nil:
		d.SplitDNS += " The router answers in its place, with the 4via6 addresses of the VPC's hosts as AAAA records; programs that use IPv4 only have no answer."
	case answered:
		d.SplitDNS += " The router answers in its place, from a cache."
	case r.Through != r.Addr:
		d.SplitDNS += " It answers with the VPC's IPv4 addresses, which clients reach by their 4via6 names only; with ROUTER_DNS=on the router answers with 4via6 addresses."
	}
	return d
}

// domains names some of the zones.
func domains(names []string) string {
	const maxNamed = 5
	switch n := len(names); {
	case n == 0:
		return "your private zones"
	case n <= maxNamed:
		return strings.Join(names, ", ")
	default:
		return fmt.Sprintf("%s and %d more, listed as zones", strings.Join(names[:maxNamed], ", "), n-maxNamed)
	}
}

// terraformDNS returns the split DNS of zones as a resource of Tailscale's provider.
func terraformDNS(nameserver string, zones []string) string {
	if len(zones) == 0 {
		return fmt.Sprintf(`resource "tailscale_dns_split_nameservers" "vpc" {
  domain      = %q # your private zone
  nameservers = [%q]
}
`, exampleZone, nameserver)
	}
	var list strings.Builder
	for _, name := range zones {
		fmt.Fprintf(&list, "    %q,\n", name)
	}
	return fmt.Sprintf(`resource "tailscale_dns_split_nameservers" "vpc" {
  for_each = toset([
%s  ])

  domain      = each.value
  nameservers = [%q]
}
`, &list, nameserver)
}
