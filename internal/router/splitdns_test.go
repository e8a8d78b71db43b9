package router

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"subnetrouter/internal/bootstrap/routesource"
	"subnetrouter/internal/bootstrap/zones"
)

func TestDescribeDNS(t *testing.T) {
	resolver := &routesource.Resolver{Addr: netip.MustParseAddr("10.0.0.2"), Source: "task metadata", Through: netip.MustParseAddr("10.0.0.2"), Route: netip.MustParsePrefix("10.0.0.0/16")}
	unrouted := *resolver
	unrouted.Route = netip.Prefix{}
	var some, many zones.Zones
	for i := range 8 {
		z := zones.Zone{Name: fmt.Sprintf("z%d.example", i), Source: "x"}
		if many.List = append(many.List, z); i < 2 {
			some.List = append(some.List, z)
		}
	}
	for name, test := range map[string]struct {
		resolver            *routesource.Resolver
		zones               zones.Zones
		splitDNS, terraform string // parts
	}{
		"no zone":       {resolver, zones.Zones{}, "each private zone, such as internal.example.com.", `domain      = "internal.example.com" # your private zone`},
		"some":          {resolver, some, "restricted (split DNS) to z0.example, z1.example.", "for_each = toset([\n    \"z0.example\",\n    \"z1.example\",\n  ])\n\n  domain      = each.value\n  nameservers = [\"10.0.0.2\"]"},
		"many":          {resolver, many, "z3.example, z4.example and 3 more, listed as zones.", `"z7.example",`},
		"no route":      {&unrouted, some, "add 10.0.0.2/32 to ROUTER_ROUTES, then make it the nameserver of z0.example, z1.example.", "z0.example"},
		"only by zones": {nil, some, "the VPC's resolver is unknown", ""},
	} {
		d := describeDNS(test.resolver, test.zones, false, nil)
		if !strings.Contains(d.SplitDNS, test.splitDNS) || !strings.Contains(d.Terraform, test.terraform) || len(d.Zones) != len(test.zones.List) {
			t.Errorf("%s: %+v", name, d)
		}
	}
	if d := describeDNS(nil, zones.Zones{}, false, nil); d != nil {
		t.Errorf("without resolver and zones: %+v", d)
	}
}
