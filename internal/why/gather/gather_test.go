package gather_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/awstest"
	"subnetrouter/internal/bootstrap/iam"
	"subnetrouter/internal/why"
	"subnetrouter/internal/why/gather"
)

const mac = "0a:1b:2c:3d:4e:5f"

var (
	p = netip.MustParsePrefix
	a = netip.MustParseAddr
)

// account returns an account with a task, a database in another subnet, and one in a peered VPC.
func account() awstest.World {
	everything := []awstest.ACLEntry{
		{Number: 100, Allow: true, Protocol: "-1", Prefix: p("0.0.0.0/0")}, {Number: 100, Allow: true, Egress: true, Protocol: "-1", Prefix: p("0.0.0.0/0")},
	}
	return awstest.World{
		PageSize: 1,
		Interfaces: []awstest.Interface{
			{ID: "eni-task", MAC: mac, VPCID: "vpc-1", SubnetID: "subnet-1", Addresses: []netip.Addr{a("10.0.1.5")}, Groups: []awstest.GroupRef{{ID: "sg-task"}}},
			{ID: "eni-db", MAC: "0a:00:00:00:00:01", VPCID: "vpc-1", SubnetID: "subnet-2", Addresses: []netip.Addr{a("10.0.3.4"), a("2600::4")}, Groups: []awstest.GroupRef{{ID: "sg-db"}}},
			{ID: "eni-peer", MAC: "0a:00:00:00:00:02", VPCID: "vpc-2", SubnetID: "subnet-3", Addresses: []netip.Addr{a("10.50.0.4")}, Groups: []awstest.GroupRef{{ID: "sg-peer"}}},
			{ID: "eni-twin", MAC: "0a:00:00:00:00:03", VPCID: "vpc-3", SubnetID: "subnet-4", Addresses: []netip.Addr{a("10.0.3.4")}},
		},
		SecurityGroups: []awstest.SecurityGroup{
			{ID: "sg-task", Name: "router", VPCID: "vpc-1", Egress: []awstest.GroupRule{{Protocol: "-1", Prefix: p("0.0.0.0/0")}}},
			{ID: "sg-db", Name: "db", VPCID: "vpc-1", Ingress: []awstest.GroupRule{{Protocol: "tcp", From: 5432, To: 5432, List: "pl-1"}}},
			{ID: "sg-peer", Name: "peer", VPCID: "vpc-2", Ingress: []awstest.GroupRule{{Protocol: "tcp", From: 0, To: 65535, Group: "sg-task"}}},
		},
		NetworkACLs: []awstest.NetworkACL{
			{ID: "acl-1", VPCID: "vpc-1", Subnets: []string{"subnet-1", "subnet-2"}, Entries: everything},
			{ID: "acl-2", VPCID: "vpc-2", Subnets: []string{"subnet-3"}, Entries: append([]awstest.ACLEntry{{Number: 1, Allow: true, Protocol: "1", Prefix: p("::/0"), From: 8, To: -1}}, everything...)},
		},
		RouteTables: []awstest.RouteTable{
			{ID: "rtb-1", VPCID: "vpc-1", Main: true, Routes: []awstest.Route{{Prefix: p("10.0.0.0/16"), Target: "local"}, {Prefix: p("10.50.0.0/16"), Target: "pcx-1"}, {PrefixList: "pl-2", Target: "tgw-1"}}},
			{ID: "rtb-2", VPCID: "vpc-2", Main: true, Routes: []awstest.Route{{Prefix: p("10.50.0.0/16"), Target: "local"}, {Prefix: p("10.0.0.0/16"), Target: "pcx-1"}}},
		},
		Peerings:    []awstest.Peering{{ID: "pcx-1", Requester: awstest.PeeringSide{VPCID: "vpc-1"}, Accepter: awstest.PeeringSide{VPCID: "vpc-2"}}},
		PrefixLists: []awstest.PrefixList{{ID: "pl-1", Entries: []awstest.Entry{{Prefix: p("10.0.1.0/24")}, {Prefix: p("192.0.2.0/24")}}}, {ID: "pl-2", Entries: []awstest.Entry{{Prefix: p("198.51.100.0/24")}}}},
	}
}

func connect(t *testing.T, world awstest.World) (*awstest.Server, *awsapi.Client) {
	t.Helper()
	server, err := awstest.NewServer("", world)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	awstest.Setenv(t, server.Env(), map[string]string{"AWS_MAX_ATTEMPTS": "1"})
	client, err := awsapi.New(t.Context(), awsapi.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return server, client
}

// explain answers for a flow to a target whose other facts are in order.
func explain(n *why.Network, target string, port uint16, outcome why.Outcome) why.Answer {
	n.First, n.Last = 32768, 60999
	to := a(target)
	return why.Explain(why.Facts{
		Question: why.Question{Protocol: why.TCP, Host: target, Port: port}, Target: to, Address: to,
		Member:  why.Member{Running: true},
		Routes:  why.Know([]why.Route{{Prefix: netip.PrefixFrom(to, to.BitLen()), Advertised: true, Approved: true, Primary: true}}),
		Filter:  why.Know([]why.Entry{{Protocols: []uint8{6}, Sources: []netip.Prefix{p("0.0.0.0/0")}, Targets: []why.PortRange{{Prefix: p("0.0.0.0/0"), Last: 65535}}}}),
		Network: n,
		Probe:   why.Probe{Outcome: outcome},
	})
}

func TestNetwork(t *testing.T) {
	server, client := connect(t, account())
	for _, tc := range []struct {
		target string
		port   uint16
		change func(*awstest.World)
		stop   string
	}{
		{"10.0.3.4", 5432, nil, ""},
		{"10.0.3.4", 5433, nil, "target-groups"},
		{"10.0.3.9", 5432, nil, "probe"},
		{"10.50.0.4", 443, nil, ""},
		{"10.50.0.4", 443, func(w *awstest.World) { w.Peerings[0].Status = "deleted" }, "peering"},
		{"10.50.0.4", 443, func(w *awstest.World) { w.Peerings = nil }, "peering"},
		{"10.50.0.4", 443, func(w *awstest.World) { w.RouteTables[1].Routes = w.RouteTables[1].Routes[:1] }, "target-route-table"},
		{"10.50.0.4", 443, func(w *awstest.World) { w.RouteTables[0].Routes[1].Blackhole = true }, "route-table"},
		{"10.50.0.4", 443, func(w *awstest.World) { w.NetworkACLs[1].Entries = w.NetworkACLs[1].Entries[:2] }, "target-acl-out"},
		{"10.0.3.4", 5432, func(w *awstest.World) { w.PrefixLists[0].Entries = w.PrefixLists[0].Entries[1:] }, "target-groups"},
		{"10.60.0.4", 443, nil, "route-table"},
	} {
		world := account()
		if tc.change != nil {
			tc.change(&world)
		}
		server.Update(func(w *awstest.World) { *w = world })
		outcome := why.Silent
		if tc.stop == "" {
			outcome = why.Answered
		}
		got := explain(gather.Network(t.Context(), client, mac, a(tc.target)), tc.target, tc.port, outcome)
		if got.Stop != tc.stop {
			t.Errorf("%s:%d: got %q, want %q: %+v", tc.target, tc.port, got.Stop, tc.stop, got.Steps)
		}
		for _, s := range got.Steps {
			if s.Verdict == why.Unknown && s.Name != "target-interface" {
				t.Errorf("%s:%d: %+v", tc.target, tc.port, s)
			}
		}
	}
}

// TestDelegatedPrefixes: an address in a prefix delegated to an interface has its security groups, in
// the VPC or in a peered one, and an interface that has the address itself comes first.
func TestDelegatedPrefixes(t *testing.T) {
	world := account()
	world.Interfaces[1].Prefixes = []netip.Prefix{p("10.0.3.16/28"), p("2600:0:0:1::/80")}
	world.Interfaces[2].Prefixes = []netip.Prefix{p("10.50.1.0/28")}
	// The same prefixes in another VPC, and an address of the prefix at another interface.
	world.Interfaces[3].Prefixes = []netip.Prefix{p("10.0.3.16/28"), p("10.50.1.0/28")}
	world.Interfaces = append(world.Interfaces, awstest.Interface{ID: "eni-own", VPCID: "vpc-1", SubnetID: "subnet-2", Addresses: []netip.Addr{a("10.0.3.20")}, Groups: []awstest.GroupRef{{ID: "sg-task"}}})
	world.RouteTables[0].Routes = append(world.RouteTables[0].Routes, awstest.Route{Prefix: p("2600::/56"), Target: "local"})
	server, client := connect(t, world)
	for target, want := range map[string]string{
		"10.0.3.17": "eni-db", "10.0.3.31": "eni-db", "2600:0:0:1::17": "eni-db", "10.50.1.3": "eni-peer", "10.0.3.20": "eni-own", "10.0.3.32": "", "2600:0:0:2::1": "",
	} {
		got := gather.Network(t.Context(), client, mac, a(target)).Target.Interface
		switch {
		case !got.Known():
			t.Errorf("%s: %+v", target, got.Missing)
		case want == "" && got.Value != nil, want != "" && (got.Value == nil || got.Value.ID != want):
			t.Errorf("%s: got %+v, want %q", target, got.Value, want)
		}
	}
	if got := explain(gather.Network(t.Context(), client, mac, a("10.0.3.17")), "10.0.3.17", 5433, why.Silent); got.Stop != "target-groups" {
		t.Errorf("a port that the groups do not allow: stopped by %q: %+v", got.Stop, got.Steps)
	}
	if got := explain(gather.Network(t.Context(), client, mac, a("10.0.3.17")), "10.0.3.17", 5432, why.Answered); !got.Passes {
		t.Errorf("got %+v", got.Steps)
	}

	// The search of a large VPC is bounded, and its end is reported.
	server.Update(func(w *awstest.World) {
		w.PageSize = 1
		for range 40 {
			w.Interfaces = append(w.Interfaces, awstest.Interface{ID: "eni-x", VPCID: "vpc-1", SubnetID: "subnet-2"})
		}
		w.Interfaces = append(w.Interfaces, awstest.Interface{ID: "eni-last", VPCID: "vpc-1", SubnetID: "subnet-2", Prefixes: []netip.Prefix{p("10.0.4.16/28")}})
	})
	before := len(server.Calls())
	got := gather.Network(t.Context(), client, mac, a("10.0.4.17")).Target.Interface
	if got.Known() || !strings.Contains(got.Missing.Reason, "more than 20 pages of interfaces") {
		t.Errorf("got %+v", got)
	}
	if n := len(server.Calls()) - before; n > 30 {
		t.Errorf("%d calls", n)
	}
}

// TestTransitZones: the interfaces of transit gateways in the VPC show in which zones it is attached.
func TestTransitZones(t *testing.T) {
	world := account()
	world.Interfaces[0].Zone = "eu-west-1a"
	world.Interfaces = append(world.Interfaces,
		awstest.Interface{ID: "eni-tgw", VPCID: "vpc-1", SubnetID: "subnet-2", Type: "transit_gateway", Zone: "eu-west-1b"},
		awstest.Interface{ID: "eni-other", VPCID: "vpc-2", SubnetID: "subnet-3", Type: "transit_gateway", Zone: "eu-west-1a"},
		awstest.Interface{ID: "eni-nat", VPCID: "vpc-1", SubnetID: "subnet-1", Type: "nat_gateway", Zone: "eu-west-1a"})
	server, client := connect(t, world)
	const target = "198.51.100.4"
	if got := explain(gather.Network(t.Context(), client, mac, a(target)), target, 443, why.Silent); got.Stop != "route-table" {
		t.Errorf("no attachment in the zone: stopped by %q: %+v", got.Stop, got.Steps)
	}
	server.Update(func(w *awstest.World) { w.Interfaces[4].Zone = "eu-west-1a" })
	got := explain(gather.Network(t.Context(), client, mac, a(target)), target, 443, why.Silent)
	if s, ok := got.First(why.Unknown); got.Stop != "probe" || !ok {
		t.Errorf("an attachment in the zone: stopped by %q, %+v", got.Stop, s)
	}
}

// TestDenied: each action that AWS denies makes a step unknown that names it, and the rest is read.
func TestDenied(t *testing.T) {
	for _, need := range gather.Needs() {
		action := need.Action.Name
		server, client := connect(t, account())
		server.Fail(action, awstest.Denied(action, "*"))
		target := "10.0.3.4"
		if action == awsapi.DescribeVPCPeeringConnections.Name {
			target = "10.50.0.4"
		}
		got := explain(gather.Network(t.Context(), client, mac, a(target)), target, 5432, why.Answered)
		named := slices.ContainsFunc(got.Steps, func(s why.Step) bool {
			return s.Verdict == why.Unknown && strings.Contains(s.Fix, fmt.Sprintf(`allow %s on "*"`, action)) && strings.Contains(s.Fix, "router plan --iam --why")
		})
		if !got.Passes || !named {
			t.Errorf("%s: got %+v", action, got.Steps)
		}
	}
}

// TestNeeds: the calls are those that the policy allows.
func TestNeeds(t *testing.T) {
	server, client := connect(t, account())
	gather.Network(t.Context(), client, mac, a("10.50.0.4"))
	gather.Network(t.Context(), client, mac, a("10.0.3.4"))
	var called []string
	called = append(called, server.Calls()...)
	slices.Sort(called)
	called = slices.Compact(called)
	var want []string
	for _, action := range iam.Actions(gather.Needs(), false) {
		want = append(want, action.Name)
	}
	slices.Sort(want)
	if !slices.Equal(called, want) {
		t.Errorf("called %v, want %v", called, want)
	}
	if n := len(server.Calls()); n > 40 { // in pages of one item
		t.Errorf("%d calls for two questions", n)
	}
}

func TestUnknownTask(t *testing.T) {
	_, client := connect(t, account())
	for _, m := range []string{"", "0e:00:00:00:00:00"} {
		if n := gather.Network(t.Context(), client, m, a("10.0.3.4")); n.Task.Interface.Known() {
			t.Errorf("%q: got %+v", m, n.Task.Interface.Value)
		}
	}
}
