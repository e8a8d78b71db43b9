package bootstrap_test

import (
	"net/netip"
	"testing"

	"subnetrouter/internal/bootstrap"
)

// TestResolverRoute: with ROUTER_DNS, the resolver's address is advertised unless a source leads to it.
func TestResolverRoute(t *testing.T) {
	site := uint32(7)
	for name, test := range map[string]struct {
		dns     string
		sources string
		config  func(*bootstrap.Config)
		want    string // the routes besides those of the sources, and their source; "" is none
		refused string
	}{
		"covered":       {"10.20.0.2", "vpc", nil, "", ""},
		"not covered":   {"10.20.0.2", "subnet", nil, "10.20.0.2/32 ROUTER_DNS, the VPC's resolver (task metadata)", ""},
		"of one's own":  {"192.0.2.53", "vpc", nil, "192.0.2.53/32 ROUTER_DNS, the VPC's resolver (task metadata)", ""},
		"unknown":       {"169.254.169.253", "subnet", nil, "", ""},
		"not asked for": {"10.20.0.2", "subnet", func(c *bootstrap.Config) { c.Routes.Resolver = false }, "", ""},
		"by site":       {"10.20.0.2", "subnet", func(c *bootstrap.Config) { c.Routes.Site = &site }, "10.20.0.2/32 ROUTER_DNS, the VPC's resolver (task metadata)", ""},
		"excluded": {"10.20.0.2", "subnet", func(c *bootstrap.Config) { c.Routes.Exclude = []netip.Prefix{netip.MustParsePrefix("10.20.0.0/30")} },
			"", "10.20.0.2/32"},
	} {
		t.Run(name, func(t *testing.T) {
			task := fargate()
			task.DNS = []netip.Addr{netip.MustParseAddr(test.dns)}
			a := start(t, task)
			c := a.config(test.sources)
			c.Routes.Resolver = true
			if test.config != nil {
				test.config(&c)
			}
			b := bootstrap.New(c)
			found, err := b.Routes(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got, refused := "", ""
			for _, r := range found.Explain {
				if r.Prefix.Addr() == netip.MustParseAddr(test.dns) {
					got = r.Prefix.String() + " " + r.Source
				}
			}
			for _, r := range found.Refused {
				if r.Prefix.Addr() == netip.MustParseAddr(test.dns) {
					refused = r.Prefix.String()
				}
			}
			if got != test.want || refused != test.refused {
				t.Errorf("got %q, refused %q; want %q, refused %q", got, refused, test.want, test.refused)
			}
			if r, _ := b.Resolver(t.Context(), found); test.want != "" && r.Route != netip.PrefixFrom(r.Through, r.Through.BitLen()) {
				t.Errorf("the resolver's route is %v", r.Route)
			}
		})
	}
}

func TestResolver(t *testing.T) {
	site := uint32(7)
	const rule = "AWS's rule: 10.20.0.0/16 plus two"
	for name, test := range map[string]struct {
		dns     []string
		sources string
		config  func(*bootstrap.Config)
		want    string // "" is none
	}{
		"metadata":            {[]string{"10.20.0.2"}, "vpc", nil, "10.20.0.2 task metadata 10.20.0.2 10.20.0.0/16"},
		"link-local resolver": {[]string{"169.254.169.253", "fd00:ec2::253"}, "vpc", nil, "10.20.0.2 " + rule + " 10.20.0.2 10.20.0.0/16"},
		"both":                {[]string{"169.254.169.253", "10.20.0.2"}, "vpc", nil, "10.20.0.2 task metadata 10.20.0.2 10.20.0.0/16"},
		"rule":                {nil, "vpc", nil, "10.20.0.2 " + rule + " 10.20.0.2 10.20.0.0/16"},
		"of one's own":        {[]string{"192.0.2.53"}, "vpc", nil, "192.0.2.53 task metadata 192.0.2.53 invalid Prefix"},
		"not advertised":      {[]string{"10.20.0.2"}, "subnet", nil, "10.20.0.2 task metadata 10.20.0.2 invalid Prefix"},
		"nothing tells":       {nil, "subnet", nil, ""},
		"by site": {nil, "vpc", func(c *bootstrap.Config) { c.Routes.Site = &site },
			"10.20.0.2 " + rule + " fd7a:115c:a1e0:b1a:0:7:a14:2 fd7a:115c:a1e0:b1a:0:7:a14:0/112"},
		"outside ECS": {nil, "10.0.0.0/8", func(c *bootstrap.Config) { c.MetadataURI = "" }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			task := fargate()
			for _, a := range test.dns {
				task.DNS = append(task.DNS, netip.MustParseAddr(a))
			}
			a := start(t, task)
			c := a.config(test.sources)
			if test.config != nil {
				test.config(&c)
			}
			b := bootstrap.New(c)
			found, err := b.Routes(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			calls := len(a.Calls())
			r, ok := b.Resolver(t.Context(), found)
			got := r.Addr.String() + " " + r.Source + " " + r.Through.String() + " " + r.Route.String()
			if !ok {
				got = ""
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if len(a.Calls()) != calls {
				t.Errorf("AWS was asked: %v", a.Calls()[calls:])
			}
		})
	}
}
