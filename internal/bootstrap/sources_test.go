package bootstrap_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"subnetrouter/internal/awstest"
	"subnetrouter/internal/bootstrap"
	"subnetrouter/internal/bootstrap/routesource"
	"subnetrouter/internal/routes"
)

// addNetwork gives the VPC tagged subnets, a route table with targets of every kind, and
// prefix lists, one of them AWS's.
func addNetwork(w *awstest.World) {
	w.PageSize = 2
	w.Subnets = []awstest.Subnet{
		{ID: "subnet-0aaa", VPCID: "vpc-0aaa", IPv4: prefix("10.20.1.0/24"), Tags: map[string]string{"tier": "public"}},
		{ID: "subnet-0bbb", VPCID: "vpc-0aaa", IPv4: prefix("10.20.2.0/24"), Tags: map[string]string{"tier": "private"},
			IPv6: []awstest.Association{{ID: "s-1", Prefix: prefix("2a05:d018:7e1:a102::/64")}, {ID: "s-2", Prefix: prefix("2a05:d018:7e1:a103::/64"), State: "disassociated"}}},
		{ID: "subnet-0ccc", VPCID: "vpc-0aaa", IPv4: prefix("10.20.3.0/24"), Tags: map[string]string{"tier": "private"}},
		{ID: "subnet-0ddd", VPCID: "vpc-0eee", IPv4: prefix("10.99.3.0/24"), Tags: map[string]string{"tier": "private"}},
	}
	peer := func(id string, cidrs ...string) awstest.PeeringSide {
		side := awstest.PeeringSide{VPCID: id}
		for _, c := range cidrs {
			side.CIDRs = append(side.CIDRs, prefix(c))
		}
		return side
	}
	here := peer("vpc-0aaa", "10.20.0.0/16")
	w.Peerings = []awstest.Peering{
		{ID: "pcx-1", Requester: here, Accepter: peer("vpc-0bbb", "10.50.0.0/16", "10.51.0.0/16", "2a05:d018:7e1:b100::/56")},
		{ID: "pcx-2", Requester: peer("vpc-0ccc"), Accepter: here},
		{ID: "pcx-3", Requester: here, Accepter: peer("vpc-0ddd", "10.70.0.0/16"), Status: "deleted"},
	}
	w.PrefixLists = []awstest.PrefixList{
		{ID: "pl-0123abcd", Entries: []awstest.Entry{
			{Prefix: prefix("192.0.2.0/25"), Description: "office"}, {Prefix: prefix("192.0.2.128/25"), Description: "office too"}, {Prefix: prefix("198.51.100.0/24")},
		}},
		{ID: "pl-63a5400a", Entries: []awstest.Entry{{Prefix: prefix("52.95.110.0/24")}}},
	}
	w.RouteTables = []awstest.RouteTable{
		{ID: "rtb-main", VPCID: "vpc-0aaa", Main: true, Routes: []awstest.Route{{Prefix: prefix("10.20.0.0/16"), Target: "local"}, {Prefix: prefix("10.80.0.0/16"), Target: "tgw-2"}}},
		{ID: "rtb-own", VPCID: "vpc-0aaa", Subnets: []string{"subnet-0aaa"}, Routes: []awstest.Route{
			{Prefix: prefix("10.20.0.0/16"), Target: "local"},
			{Prefix: prefix("0.0.0.0/0"), Target: "nat-1"},
			{Prefix: prefix("10.48.0.0/12"), Target: "pcx-1"}, // holds more than the peer has
			{Prefix: prefix("2a05:d018:7e1:b1ff::/64"), Target: "pcx-1"},
			{Prefix: prefix("172.31.0.0/16"), Target: "pcx-1"},
			{Prefix: prefix("10.52.0.0/16"), Target: "pcx-2"}, // does not show its CIDRs
			{Prefix: prefix("10.70.0.0/16"), Target: "pcx-3"},
			{Prefix: prefix("10.71.0.0/16"), Target: "pcx-4", Blackhole: true},
			{Prefix: prefix("10.60.0.0/14"), Target: "tgw-1"},
			{Prefix: prefix("::/0"), Target: "tgw-1"},
			{PrefixList: "pl-0123abcd", Target: "tgw-1"},
			{PrefixList: "pl-99999999", Target: "tgw-9", Blackhole: true},
			{PrefixList: "pl-63a5400a", Target: "vpce-1"}, // a gateway endpoint, not another network
		}},
	}
	addNamed(w)
}

// addNamed adds databases and load balancers, of which those with the tag tier=private have
// endpoints that [resolve] knows.
func addNamed(w *awstest.World) {
	private, public := map[string]string{"tier": "private", "Name": "x"}, map[string]string{"tier": "public"}
	w.DBClusters = []awstest.DatabaseCluster{
		{ID: "shop", Endpoint: "shop.cluster-x.eu-west-1.rds.amazonaws.com", Reader: "shop.cluster-ro-x.eu-west-1.rds.amazonaws.com",
			Custom: []string{"reports.cluster-custom-x.eu-west-1.rds.amazonaws.com"}, Tags: private},
		{ID: "other", Endpoint: "other.cluster-x.eu-west-1.rds.amazonaws.com", Tags: public},
	}
	w.Databases = []awstest.Database{
		{ID: "shop-1", Cluster: "shop", Endpoint: "shop-1.x.eu-west-1.rds.amazonaws.com"},
		{ID: "shop-2", Cluster: "shop", Endpoint: "shop-2.x.eu-west-1.rds.amazonaws.com", Tags: public},
		{ID: "orders", Endpoint: "orders.x.eu-west-1.rds.amazonaws.com", Tags: private},
		{ID: "created", Tags: private},
		{ID: "other-1", Cluster: "other", Endpoint: "other-1.x.eu-west-1.rds.amazonaws.com"},
	}
	w.Proxies = []awstest.DatabaseProxy{
		{ID: "prx-1", Name: "pool", Endpoint: "pool.proxy-x.eu-west-1.rds.amazonaws.com", More: []string{"ro.endpoint.proxy-x.eu-west-1.rds.amazonaws.com", "rw.endpoint.proxy-x.eu-west-1.rds.amazonaws.com"}, Tags: private},
		{ID: "prx-2", Name: "other", Endpoint: "other.proxy-x.eu-west-1.rds.amazonaws.com", Tags: public},
	}
	w.LoadBalancers = []awstest.LoadBalancer{
		{Name: "web", DNS: "internal-web-1.eu-west-1.elb.amazonaws.com", Tags: private},
		{Name: "grpc", Type: "network", DNS: "grpc-1.elb.eu-west-1.amazonaws.com", Tags: private},
		{Name: "fw", Type: "gateway", Tags: private},
		{Name: "other", DNS: "internal-other-1.eu-west-1.elb.amazonaws.com", Tags: public},
	}
}

// resolve is a resolver that knows the names with the tag of [addNamed], and db.example.com.
func resolve(_ context.Context, host string) ([]netip.Addr, error) {
	addrs := map[string][]string{
		"shop.cluster-x.eu-west-1.rds.amazonaws.com":           {"172.16.1.1"},
		"shop.cluster-ro-x.eu-west-1.rds.amazonaws.com":        {"172.16.1.2"},
		"reports.cluster-custom-x.eu-west-1.rds.amazonaws.com": {"172.16.1.2"},
		"shop-1.x.eu-west-1.rds.amazonaws.com":                 {"172.16.1.1"},
		"shop-2.x.eu-west-1.rds.amazonaws.com":                 {"172.16.1.2"},
		"orders.x.eu-west-1.rds.amazonaws.com":                 {"10.20.3.9"},
		"pool.proxy-x.eu-west-1.rds.amazonaws.com":             {"172.16.2.1", "172.16.2.2"},
		"ro.endpoint.proxy-x.eu-west-1.rds.amazonaws.com":      {"172.16.2.3"},
		"rw.endpoint.proxy-x.eu-west-1.rds.amazonaws.com":      {"172.16.2.4"},
		"internal-web-1.eu-west-1.elb.amazonaws.com":           {"172.16.3.1", "172.16.3.2"},
		"grpc-1.elb.eu-west-1.amazonaws.com":                   {"172.16.3.3", "2a05:d018:7e1:c101::3"},
		"db.example.com":                                       {"192.0.2.10", "169.254.169.254"},
	}[host]
	if addrs == nil {
		return nil, fmt.Errorf("no such host %s", host)
	}
	var list []netip.Addr
	for _, a := range addrs {
		list = append(list, netip.MustParseAddr(a))
	}
	return list, nil
}

// summary returns the chosen routes, the refused ones and the notes, one per line.
func summary(r routesource.Routes) string {
	var b strings.Builder
	for _, p := range r.Advertise {
		fmt.Fprintf(&b, "%s: %s\n", p, r.SourceOf(p))
	}
	for _, refused := range r.Refused {
		fmt.Fprintf(&b, "not %s: %s: %s\n", refused.Prefix, refused.Source, refused.Reason)
	}
	for _, note := range r.Notes {
		fmt.Fprintf(&b, "note: %s\n", note)
	}
	return b.String()
}

func TestSources(t *testing.T) {
	site := uint32(7)
	host := func(addrs ...string) func(context.Context, string) ([]netip.Addr, error) {
		return func(_ context.Context, name string) (list []netip.Addr, err error) {
			if len(addrs) == 0 {
				return nil, errors.New("no such host")
			}
			for _, a := range addrs {
				list = append(list, netip.MustParseAddr(a))
			}
			return list, nil
		}
	}
	resolved := func(c *bootstrap.Config) { c.LookupHost = resolve }
	for name, test := range map[string]struct {
		task    awstest.Task
		sources string
		config  func(*bootstrap.Config)
		want    string
	}{
		"subnets by tag": {fargate(), "subnets:tier=private", nil, `
10.20.2.0/24: subnet-0bbb (tier=private)
10.20.3.0/24: subnet-0ccc (tier=private)
2a05:d018:7e1:a102::/64: subnet-0bbb (tier=private)
`},
		"peerings": {fargate(), "peerings", nil, `
10.50.0.0/16: peering pcx-1 to vpc-0bbb (rtb-own)
10.51.0.0/16: peering pcx-1 to vpc-0bbb (rtb-own)
10.52.0.0/16: peering pcx-2 to vpc-0ccc (rtb-own)
10.60.0.0/14: transit gateway tgw-1 (rtb-own)
192.0.2.0/24: transit gateway tgw-1 (rtb-own), prefix list pl-0123abcd (office), transit gateway tgw-1 (rtb-own), prefix list pl-0123abcd (office too)
198.51.100.0/24: transit gateway tgw-1 (rtb-own), prefix list pl-0123abcd
2a05:d018:7e1:b1ff::/64: peering pcx-1 to vpc-0bbb (rtb-own)
not 172.31.0.0/16: peering pcx-1 to vpc-0bbb (rtb-own): the peer VPC has no address in it
not 10.70.0.0/16: peering pcx-3 to vpc-0ddd (rtb-own): the peering is not active
not 10.71.0.0/16: peering pcx-4 (rtb-own): a blackhole in the route table: its target no longer exists
not ::/0: transit gateway tgw-1 (rtb-own): a default route is for exit nodes: set ROUTER_EXIT_NODE=on for that role
`},
		"prefix list": {fargate(), "pl-0123abcd", nil, `
192.0.2.0/24: prefix list pl-0123abcd (office), prefix list pl-0123abcd (office too)
198.51.100.0/24: prefix list pl-0123abcd
`},
		"databases": {fargate(), "rds:tier=priv*,subnets:tier=private", resolved, `
10.20.2.0/24: subnet-0bbb (tier=private)
10.20.3.0/24: subnet-0ccc (tier=private), database orders (tier=priv*), orders.x.eu-west-1.rds.amazonaws.com
172.16.1.1/32: database cluster shop (tier=priv*), shop.cluster-x.eu-west-1.rds.amazonaws.com, database shop-1 (tier=priv*), shop-1.x.eu-west-1.rds.amazonaws.com
172.16.1.2/32: readers of database cluster shop (tier=priv*), shop.cluster-ro-x.eu-west-1.rds.amazonaws.com, custom endpoint of database cluster shop (tier=priv*), reports.cluster-custom-x.eu-west-1.rds.amazonaws.com, database shop-2 (tier=priv*), shop-2.x.eu-west-1.rds.amazonaws.com
172.16.2.1/32: database proxy pool (tier=priv*), pool.proxy-x.eu-west-1.rds.amazonaws.com
172.16.2.2/32: database proxy pool (tier=priv*), pool.proxy-x.eu-west-1.rds.amazonaws.com
172.16.2.3/32: endpoint of database proxy pool (tier=priv*), ro.endpoint.proxy-x.eu-west-1.rds.amazonaws.com
172.16.2.4/32: endpoint of database proxy pool (tier=priv*), rw.endpoint.proxy-x.eu-west-1.rds.amazonaws.com
2a05:d018:7e1:a102::/64: subnet-0bbb (tier=private)
`},
		"load balancers, by site": {fargate(), "lb:tier=private", func(c *bootstrap.Config) {
			resolved(c)
			c.Routes.Site = &site
		}, `
2a05:d018:7e1:c101::3/128: load balancer grpc (tier=private), grpc-1.elb.eu-west-1.amazonaws.com
fd7a:115c:a1e0:b1a:0:7:ac10:301/128: load balancer web (tier=private), internal-web-1.eu-west-1.elb.amazonaws.com
fd7a:115c:a1e0:b1a:0:7:ac10:302/128: load balancer web (tier=private), internal-web-1.eu-west-1.elb.amazonaws.com
fd7a:115c:a1e0:b1a:0:7:ac10:303/128: load balancer grpc (tier=private), grpc-1.elb.eu-west-1.amazonaws.com
`},
		"names": {fargate(), "host:DB.example.com.,host:none.example.com", func(c *bootstrap.Config) {
			resolved(c)
			c.Routes.Exclude = []netip.Prefix{prefix("192.0.3.0/24")}
		}, `
192.0.2.10/32: host:DB.example.com.
not 169.254.169.254/32: host:DB.example.com.: link-local, where ECS and EC2 serve credentials and metadata
note: resolving none.example.com failed: no such host none.example.com; it has no route yet
`},
		"neighbours keep their names": {fargate(), "10.30.0.0/16,10.31.0.0/16,pl-63a5400a", nil, `
10.30.0.0/16: ROUTER_ROUTES
10.31.0.0/16: ROUTER_ROUTES
52.95.110.0/24: prefix list pl-63a5400a
`},
		"combined": {fargate(), "vpc,subnets:tier=private,pl-63a5400a,10.20.0.0/15", func(c *bootstrap.Config) {
			c.Routes.Exclude = []netip.Prefix{prefix("10.31.128.0/17"), prefix("52.0.0.0/8"), prefix("2a05:d018::/32")}
		}, `
10.20.0.0/15: vpc vpc-0aaa (vpc-cidr-assoc-1), subnet-0bbb (tier=private), subnet-0ccc (tier=private), ROUTER_ROUTES
10.31.0.0/17: vpc vpc-0aaa (vpc-cidr-assoc-2)
not 100.64.0.0/20: vpc vpc-0aaa (vpc-cidr-assoc-3): Tailscale's own addresses, so clients would drop it; reach a VPC in this range by 4via6 or not at all
not 2a05:d018:7e1:a100::/56: vpc vpc-0aaa (vpc-cidr-assoc-4): excluded by ROUTER_EXCLUDE_ROUTES
not 2a05:d018:7e1:a102::/64: subnet-0bbb (tier=private): excluded by ROUTER_EXCLUDE_ROUTES
not 52.95.110.0/24: prefix list pl-63a5400a: excluded by ROUTER_EXCLUDE_ROUTES
`},
		"by site, Tailscale's range too": {fargate(), "vpc,168.0.0.0/7", func(c *bootstrap.Config) {
			c.Routes.Site, c.Routes.Exclude = &site, []netip.Prefix{prefix("10.20.128.0/17")}
		}, `
2a05:d018:7e1:a100::/56: vpc vpc-0aaa (vpc-cidr-assoc-4)
fd7a:115c:a1e0:b1a:0:7:a14:0/113: vpc vpc-0aaa (vpc-cidr-assoc-1)
fd7a:115c:a1e0:b1a:0:7:a1f:0/112: vpc vpc-0aaa (vpc-cidr-assoc-2)
fd7a:115c:a1e0:b1a:0:7:6440:0/116: vpc vpc-0aaa (vpc-cidr-assoc-3)
fd7a:115c:a1e0:b1a:0:7:a800:0/103: ROUTER_ROUTES
note: fd7a:115c:a1e0:b1a:0:7:a800:0/103 contains fd7a:115c:a1e0:b1a:0:7:a9fe:0/112, which is not forwarded: link-local, where ECS and EC2 serve credentials and metadata
`},
		"halves of everything": {fargate(), "0.0.0.0/1,128.0.0.0/1,fd12::/48", nil, `
fd12::/48: ROUTER_ROUTES
not 0.0.0.0/0: routes taken together: a default route is for exit nodes: set ROUTER_EXIT_NODE=on for that role
`},
		"control's public address": {fargate(), "10.0.0.0/8,192.200.0.0/16,203.0.113.0/24", func(c *bootstrap.Config) {
			c.LookupHost = host("::ffff:192.200.0.103", "2606:b740::103")
		}, `
10.0.0.0/8: ROUTER_ROUTES
203.0.113.0/24: ROUTER_ROUTES
not 192.200.0.0/16: ROUTER_ROUTES: it contains 192.200.0.103, on the router's own path to its control server; put that into ROUTER_EXCLUDE_ROUTES to advertise the rest
`},
		"control's public address excluded": {fargate(), "192.200.0.0/24", func(c *bootstrap.Config) {
			c.LookupHost = host("192.200.0.103")
			c.Routes.Exclude = []netip.Prefix{prefix("192.200.0.0/25")}
		}, `
192.200.0.128/25: ROUTER_ROUTES
`},
		"control in the VPC": {fargate(), "vpc", func(c *bootstrap.Config) {
			c.ControlURL, c.LookupHost = "https://hs.example.com", host("10.20.9.9")
		}, `
10.20.0.0/16: vpc vpc-0aaa (vpc-cidr-assoc-1)
10.31.0.0/16: vpc vpc-0aaa (vpc-cidr-assoc-2)
2a05:d018:7e1:a100::/56: vpc vpc-0aaa (vpc-cidr-assoc-4)
not 100.64.0.0/20: vpc vpc-0aaa (vpc-cidr-assoc-3): Tailscale's own addresses, so clients would drop it; reach a VPC in this range by 4via6 or not at all
note: 10.20.0.0/16 contains 10.20.9.9 of the control server: clients need a way to it outside the tailnet, or they cannot join
`},
		"control without an address": {fargate(), "203.0.113.0/24", func(c *bootstrap.Config) { c.LookupHost = host() }, `
203.0.113.0/24: ROUTER_ROUTES
`},
		"control in a public CIDR of the VPC": {fargate(), "vpc", func(c *bootstrap.Config) {
			c.ControlURL = "http://[2a05:d018:7e1:a100::9]:8080"
			c.Routes.Exclude = []netip.Prefix{prefix("0.0.0.0/0")}
		}, `
2a05:d018:7e1:a100::/56: vpc vpc-0aaa (vpc-cidr-assoc-4)
not 10.20.0.0/16: vpc vpc-0aaa (vpc-cidr-assoc-1): excluded by ROUTER_EXCLUDE_ROUTES
not 10.31.0.0/16: vpc vpc-0aaa (vpc-cidr-assoc-2): excluded by ROUTER_EXCLUDE_ROUTES
not 100.64.0.0/20: vpc vpc-0aaa (vpc-cidr-assoc-3): Tailscale's own addresses, so clients would drop it; reach a VPC in this range by 4via6 or not at all
note: 2a05:d018:7e1:a100::/56 contains 2a05:d018:7e1:a100::9 of the control server: clients need a way to it outside the tailnet, or they cannot join
`},
	} {
		t.Run(name, func(t *testing.T) {
			a := start(t, test.task)
			a.Server.Update(addNetwork)
			c := a.config(test.sources)
			asked := ""
			c.LookupHost = func(_ context.Context, name string) ([]netip.Addr, error) {
				asked += name
				return nil, errors.New("no such host")
			}
			if test.config != nil {
				test.config(&c)
			}
			got, err := bootstrap.New(c).Routes(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got, want := summary(got), test.want[1:]; got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			// Only public prefixes that the operator names can contain Tailscale's addresses.
			named := strings.Contains(test.sources, "pl-") && name != "combined" || name == "peerings"
			if want := map[bool]string{true: "controlplane.tailscale.com"}[named]; asked != want {
				t.Errorf("looked up %q, want %q", asked, want)
			}
		})
	}
}

func TestPeeringsOfTheMainTable(t *testing.T) {
	a := start(t, fargate())
	a.Server.Update(addNetwork)
	a.Server.Update(func(w *awstest.World) {
		w.Interfaces = []awstest.Interface{{ID: "eni-0aaa", MAC: mac, VPCID: "vpc-0aaa", SubnetID: "subnet-0ccc"}}
	})
	got, err := bootstrap.New(a.config("peerings")).Routes(t.Context())
	if want := "10.80.0.0/16: transit gateway tgw-2 (rtb-main)\n"; err != nil || summary(got) != want {
		t.Errorf("got %s, %v; want %s", summary(got), err, want)
	}
	if calls := a.Calls(); slices.Contains(calls, "ec2:DescribeVpcPeeringConnections") {
		t.Errorf("peerings were asked for without any: %v", calls)
	}
}

// TestThousandEntries looks up the largest prefix list that AWS allows.
func TestThousandEntries(t *testing.T) {
	a := start(t, fargate())
	a.Server.Update(func(w *awstest.World) {
		list := awstest.PrefixList{ID: "pl-0123abcd"}
		for i := range 1000 {
			list.Entries = append(list.Entries, awstest.Entry{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16, byte(i / 4), byte(i%4) << 6}), 26)})
		}
		w.PrefixLists = []awstest.PrefixList{list}
	})
	got, err := bootstrap.New(a.config("pl-0123abcd")).Routes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := routes.Normalize([]netip.Prefix{prefix("172.16.0.0/17"), prefix("172.16.128.0/18"), prefix("172.16.192.0/19"), prefix("172.16.224.0/20"), prefix("172.16.240.0/21"), prefix("172.16.248.0/23")})
	if !slices.Equal(got.Advertise, want) || len(got.Explain) != 1000 {
		t.Errorf("%d found, advertise %v, want %v", len(got.Explain), got.Advertise, want)
	}
	if calls := a.Calls(); len(calls) != 10 {
		t.Errorf("%d calls, want 10 pages", len(calls))
	}
}
