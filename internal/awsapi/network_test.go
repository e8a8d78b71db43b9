package awsapi_test

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/awstest"
	"subnetrouter/internal/problem"
)

// addRelated adds the resources of the look-ups other than the VPC's, in pages of one item
// each: AWS may send pages of any length.
func addRelated(w *awstest.World) {
	p := netip.MustParsePrefix
	w.PageSize = 1
	w.Subnets = []awstest.Subnet{
		{ID: "subnet-1", VPCID: "vpc-0aaa", IPv4: p("10.20.1.0/24"), Tags: map[string]string{"tier": "private"}},
		{ID: "subnet-2", VPCID: "vpc-0aaa", IPv4: p("10.20.2.0/24"), Tags: map[string]string{"tier": "public"}},
		{ID: "subnet-3", VPCID: "vpc-0aaa", Tags: map[string]string{"tier": "private"}, IPv6: []awstest.Association{
			{ID: "a-1", Prefix: p("2a05:d018:7e1:a101::/64")}, {ID: "a-2", Prefix: p("2a05:d018:7e1:a102::/64"), State: "disassociating"}}},
		{ID: "subnet-4", VPCID: "vpc-0bbb", IPv4: p("10.40.1.0/24"), Tags: map[string]string{"tier": "private"}},
	}
	w.RouteTables = []awstest.RouteTable{
		{ID: "rtb-other", VPCID: "vpc-0bbb", Main: true, Routes: []awstest.Route{{Prefix: p("10.40.0.0/16"), Target: "local"}}},
		{ID: "rtb-main", VPCID: "vpc-0aaa", Main: true, Routes: []awstest.Route{{Prefix: p("10.20.0.0/16"), Target: "local"}}},
		{ID: "rtb-own", VPCID: "vpc-0aaa", Subnets: []string{"subnet-1"}, Routes: []awstest.Route{
			{Prefix: p("10.20.0.0/16"), Target: "local"},
			{Prefix: p("0.0.0.0/0"), Target: "nat-1"},
			{Prefix: p("10.40.0.0/16"), Target: "pcx-1"},
			{Prefix: p("fd00::/8"), Target: "tgw-1", Blackhole: true},
			{PrefixList: "pl-0123abcd", Target: "vpce-1"},
		}},
		{ID: "rtb-empty", VPCID: "vpc-0ccc", Main: true},
	}
	here := awstest.PeeringSide{VPCID: "vpc-0aaa", CIDRs: []netip.Prefix{p("10.20.0.0/16")}}
	there := awstest.PeeringSide{VPCID: "vpc-0bbb", CIDRs: []netip.Prefix{p("10.40.0.0/16"), p("10.41.0.0/16"), p("2a05:d018:7e1:b100::/56")}}
	w.Peerings = []awstest.Peering{
		{ID: "pcx-1", Requester: here, Accepter: there},
		{ID: "pcx-2", Requester: there, Accepter: here, Status: "deleted"},
		{ID: "pcx-3", Requester: here, Accepter: awstest.PeeringSide{VPCID: "vpc-0ddd"}},
	}
	list := awstest.PrefixList{ID: "pl-0123abcd"}
	for i := range 250 {
		list.Entries = append(list.Entries, awstest.Entry{Prefix: p(fmt.Sprintf("172.16.%d.0/24", i)), Description: fmt.Sprint("site ", i)})
	}
	w.PrefixLists = []awstest.PrefixList{list, {ID: "pl-00000000"}}
}

func TestNetworkAnswers(t *testing.T) {
	var called []string
	server, c := connect(t, "1", awsapi.Options{Called: func(action string, err error) {
		called = append(called, fmt.Sprint(action, " ", err))
	}})
	server.Update(addRelated)
	ctx, p := t.Context(), netip.MustParsePrefix

	subnets, err := c.SubnetsByTag(ctx, "vpc-0aaa", "tier", "private")
	if want := []awsapi.Subnet{{ID: "subnet-1", Prefixes: []netip.Prefix{p("10.20.1.0/24")}}, {ID: "subnet-3", Prefixes: []netip.Prefix{p("2a05:d018:7e1:a101::/64")}}}; err != nil || !reflect.DeepEqual(subnets, want) {
		t.Errorf("got %v, %v", subnets, err)
	}
	if want := []string{"ec2:DescribeSubnets <nil>", "ec2:DescribeSubnets <nil>"}; !slices.Equal(called, want) {
		t.Errorf("Called was called for %q, want %q", called, want)
	}

	own, err := c.RouteTable(ctx, "vpc-0aaa", "subnet-1")
	if want := (awsapi.RouteTable{ID: "rtb-own", Routes: []awsapi.Route{
		{Prefix: p("10.20.0.0/16"), Target: "local"}, {Prefix: p("0.0.0.0/0"), Target: "nat-1"}, {Prefix: p("10.40.0.0/16"), Target: "pcx-1"},
		{Prefix: p("fd00::/8"), Target: "tgw-1", Blackhole: true}, {PrefixList: "pl-0123abcd", Target: "vpce-1"},
	}}); err != nil || !reflect.DeepEqual(own, want) {
		t.Errorf("got %+v, %v", own, err)
	}
	if main, err := c.RouteTable(ctx, "vpc-0aaa", "subnet-2"); err != nil || main.ID != "rtb-main" || !main.Main {
		t.Errorf("got %+v, %v", main, err)
	}

	peerings, err := c.Peerings(ctx, "vpc-0aaa", []string{"pcx-1", "pcx-2", "pcx-3", "pcx-4"})
	cidrs := []netip.Prefix{p("10.40.0.0/16"), p("10.41.0.0/16"), p("2a05:d018:7e1:b100::/56")}
	if want := map[string]awsapi.Peering{
		"pcx-1": {ID: "pcx-1", Active: true, State: "active", Peer: "vpc-0bbb", CIDRs: cidrs},
		"pcx-2": {ID: "pcx-2", State: "deleted", Peer: "vpc-0bbb", CIDRs: cidrs},
		"pcx-3": {ID: "pcx-3", Active: true, State: "active", Peer: "vpc-0ddd"},
	}; err != nil || !reflect.DeepEqual(peerings, want) {
		t.Errorf("got %+v, %v", peerings, err)
	}
	before := len(server.Calls())
	if none, err := c.Peerings(ctx, "vpc-0aaa", nil); len(none) != 0 || err != nil || len(server.Calls()) != before {
		t.Errorf("no peerings: %v, %v, %d calls", none, err, len(server.Calls())-before)
	}

	// A prefix list arrives in pages of a hundred entries, as AWS sends them.
	server.Update(func(w *awstest.World) { w.PageSize = 0 })
	before = len(server.Calls())
	list, err := c.PrefixList(ctx, "pl-0123abcd")
	if err != nil || len(list) != 250 || list[249] != (awsapi.Entry{Prefix: p("172.16.249.0/24"), Description: "site 249"}) {
		t.Errorf("got %d entries, %v", len(list), err)
	}
	if n := len(server.Calls()) - before; n != 3 {
		t.Errorf("%d calls for 250 entries, want 3", n)
	}
	if list, err := c.PrefixList(ctx, "pl-00000000"); len(list) != 0 || err != nil {
		t.Errorf("empty list: %v, %v", list, err)
	}
}

func TestNetworkErrors(t *testing.T) {
	server, c := connect(t, "1", awsapi.Options{})
	server.Update(addRelated)
	ctx := t.Context()
	subnets := func(value string) func() error {
		return func() error { _, err := c.SubnetsByTag(ctx, "vpc-0aaa", "tier", value); return err }
	}
	table := func(vpc string) func() error {
		return func() error { _, err := c.RouteTable(ctx, vpc, "subnet-9"); return err }
	}
	peerings := func() error { _, err := c.Peerings(ctx, "vpc-0aaa", []string{"pcx-1", "pcx-2"}); return err }
	list := func(id string) func() error {
		return func() error { _, err := c.PrefixList(ctx, id); return err }
	}
	denied := func(action string) string {
		return "UnauthorizedOperation: User: arn:aws:sts::123456789012:assumed-role/router/6f1d0c5b is not authorized to perform: " + action +
			" because no identity-based policy allows the " + action + " action; allow " + action + ` on "*" in the task role's policy`
	}
	for name, test := range map[string]struct {
		action  string
		failure awstest.Failure
		call    func() error
		code    problem.Code
		want    string
	}{
		"subnets denied": {"ec2:DescribeSubnets", awstest.Denied("ec2:DescribeSubnets", "*"), subnets("private"), problem.RoutesUnknown,
			"calling ec2:DescribeSubnets for the subnets of VPC vpc-0aaa with tag tier=private: " + denied("ec2:DescribeSubnets")},
		"no subnets": {"", awstest.Failure{}, subnets("none"), problem.RoutesUnknown,
			"calling ec2:DescribeSubnets for the subnets of VPC vpc-0aaa with tag tier=none: there is none; correct the tag in ROUTER_ROUTES, or tag the subnets"},
		"table throttled": {"ec2:DescribeRouteTables", awstest.Throttled(), table("vpc-0aaa"), problem.RoutesUnknown,
			"calling ec2:DescribeRouteTables for the route table of subnet subnet-9: RequestLimitExceeded: Request limit exceeded; other callers may be using up this account's API rate in eu-west-1"},
		"no table": {"", awstest.Failure{}, table("vpc-0zzz"), problem.RoutesUnknown,
			"calling ec2:DescribeRouteTables for the main route table of VPC vpc-0zzz: there is none in eu-west-1; check that AWS_REGION and the credentials are the task's own"},
		"table without routes": {"", awstest.Failure{}, table("vpc-0ccc"), problem.RoutesUnknown,
			"calling ec2:DescribeRouteTables for the main route table of VPC vpc-0ccc: rtb-empty has no route at all"},
		"peerings down": {"ec2:DescribeVpcPeeringConnections", awstest.Down(), peerings, problem.RoutesUnknown,
			"calling ec2:DescribeVpcPeeringConnections for pcx-1, pcx-2: ServiceUnavailable: The service is unavailable. Please try again shortly; AWS is failing in eu-west-1, see its health dashboard"},
		"list denied": {"ec2:GetManagedPrefixListEntries", awstest.Denied("ec2:GetManagedPrefixListEntries", "*"), list("pl-0123abcd"), problem.RoutesUnknown,
			"calling ec2:GetManagedPrefixListEntries for prefix list pl-0123abcd: " + denied("ec2:GetManagedPrefixListEntries")},
		"list missing": {"", awstest.Failure{}, list("pl-99999999"), problem.RoutesUnknown,
			"calling ec2:GetManagedPrefixListEntries for prefix list pl-99999999: InvalidPrefixListID.NotFound: The prefix list ID 'pl-99999999' does not exist; check the ID in ROUTER_ROUTES, and that the list is of this region or shared with this account"},
	} {
		t.Run(name, func(t *testing.T) {
			server.Fail(test.action, test.failure)
			defer server.Fail(test.action, awstest.Failure{})
			err := test.call()
			if code := problem.CodeOf(err, ""); err == nil || err.Error() != test.want || code != test.code {
				t.Fatalf("got  %v: %v\nwant %v: %v", code, err, test.code, test.want)
			}
		})
	}

	// A failure on a later page must fail the call, not truncate the result.
	server.Update(func(w *awstest.World) { w.PageSize = 200 })
	n := 0
	fails := client(t, awsapi.Options{Called: func(string, error) {
		if n++; n == 1 {
			server.Fail("ec2:GetManagedPrefixListEntries", awstest.Down())
		}
	}})
	if got, err := fails.PrefixList(ctx, "pl-0123abcd"); err == nil || got != nil {
		t.Errorf("with a failing second page: %d entries, %v", len(got), err)
	}
}
