package why

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func p(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func a(s string) netip.Addr   { return netip.MustParseAddr(s) }

// healthy returns the facts of a flow that passes: from a laptop to a database in another subnet.
func healthy() Facts {
	everything := []ACLEntry{
		{Number: 100, Allow: true, Egress: true, Protocol: "-1", Prefix: p("0.0.0.0/0")},
		{Number: 100, Allow: true, Protocol: "-1", Prefix: p("0.0.0.0/0")},
	}
	table := Table{ID: "rtb-1", Main: true, Routes: []TableRoute{{Prefix: p("10.0.0.0/16"), Target: "local"}}}
	return Facts{
		Question: Question{Protocol: TCP, Host: "db.internal", Port: 5432, From: "laptop"},
		Name:     Name{Addrs: []netip.Addr{a("10.0.3.4")}, Server: "the VPC's resolver"},
		Address:  a("10.0.3.4"), Target: a("10.0.3.4"),
		Member:  Member{Running: true, State: "Running"},
		Routes:  Know([]Route{{Prefix: p("10.0.0.0/16"), Source: "vpc vpc-1", Advertised: true, Approved: true, Primary: true}}),
		Clients: Know([]Client{{Node: "laptop", User: "ann@example.com", Addrs: []netip.Addr{a("100.64.0.7")}}}),
		Filter: Know([]Entry{{Protocols: []uint8{6, 17}, Sources: []netip.Prefix{p("100.64.0.7/32")},
			Targets: []PortRange{{p("10.0.0.0/16"), 0, 65535}}}}),
		Limits: []Limit{{Name: "flows", Used: 3, Limit: 100, Fix: "raise ROUTER_MAX_FLOWS"}},
		Network: &Network{
			First: 32768, Last: 60999,
			Task: Side{
				Interface: Know(&Interface{ID: "eni-1", VPC: "vpc-1", Subnet: "subnet-1", Groups: []string{"sg-task"}, Addrs: []netip.Addr{a("10.0.1.5")}}),
				Groups:    Know([]Group{{ID: "sg-task", Name: "router", Egress: []Rule{{Protocol: "-1", From: -1, To: -1, Prefixes: []netip.Prefix{p("0.0.0.0/0")}}}}}),
				ACL:       Know(ACL{ID: "acl-1", Entries: everything}), Table: Know(table),
			},
			Target: Side{
				Interface: Know(&Interface{ID: "eni-2", VPC: "vpc-1", Subnet: "subnet-2", Groups: []string{"sg-db"}, Addrs: []netip.Addr{a("10.0.3.4")}}),
				Groups:    Know([]Group{{ID: "sg-db", Name: "db", Ingress: []Rule{{Protocol: "tcp", From: 5432, To: 5432, Groups: []string{"sg-task"}}}}}),
				ACL:       Know(ACL{ID: "acl-2", Entries: everything}), Table: Know(table),
			},
		},
		Probe: Probe{Outcome: Answered, Took: 2 * time.Millisecond},
	}
}

// silent sets the probe's result to that of a flow whose packets are dropped.
func silent(f *Facts) { f.Probe = Probe{Outcome: Silent, Took: 3 * time.Second} }

func TestHealthy(t *testing.T) {
	got := Explain(healthy())
	if !got.Passes || got.Stop != "" {
		t.Errorf("got %+v", got)
	}
	for _, s := range got.Steps {
		if s.Verdict != Pass {
			t.Errorf("%s: %s: %s", s.Name, s.Verdict, s.Evidence)
		}
	}
}

type fault struct {
	name, step, evidence string
	change               func(*Facts)
}

// faults are changes of the facts that stop a flow, with the step that has to name them and a part
// of its evidence.
var faults = []fault{
	{"no such name", "dns", "db.internal does not resolve: no such host", func(f *Facts) { f.Name, f.Target = Name{Err: "no such host"}, netip.Addr{} }},
	{"a name without addresses", "dns", "has no address", func(f *Facts) { f.Name, f.Target = Name{}, netip.Addr{} }},
	{"the node is removed", "router", "removed", func(f *Facts) { f.Member.Problem = "the node was removed" }},
	{"the engine starts", "router", "state Starting", func(f *Facts) { f.Member = Member{State: "Starting"} }},
	{"routes unknown", "route", "no permission", func(f *Facts) { f.Routes = Lack[[]Route]("no permission", "") }},
	{"no route", "route", "no other node has one", func(f *Facts) { f.Routes.Value[0].Prefix = p("10.9.0.0/16") }},
	{"a route of another node only", "route", "edge-2 has 10.0.0.0/16", func(f *Facts) {
		f.Routes.Value[0].Prefix = p("10.9.0.0/16")
		f.Others = []OtherRoute{{Prefix: p("10.0.0.0/16"), Node: "edge-2"}}
	}},
	{"a refused route", "route", "is not advertised: link-local", func(f *Facts) { f.Routes.Value[0].Refused = "link-local" }},
	{"a longer route of another node", "route", "lab advertises 10.0.3.0/24", func(f *Facts) {
		f.Others = []OtherRoute{{Prefix: p("10.0.3.0/24"), Node: "lab"}}
	}},
	{"not advertised yet", "advertised", "not advertised yet", func(f *Facts) { f.Routes.Value[0].Advertised = false }},
	{"held back", "advertised", "probes fail", func(f *Facts) {
		f.Routes.Value[0].Advertised, f.Routes.Value[0].HeldBack = false, "probes fail"
	}},
	{"not approved", "approved", "has not approved 10.0.0.0/16", func(f *Facts) { f.Routes.Value[0].Approved = false }},
	{"primary at a stranger", "primary", "lab serves", func(f *Facts) {
		f.Routes.Value[0].Primary = false
		f.Others = []OtherRoute{{Prefix: p("10.0.0.0/16"), Node: "lab"}}
	}},
	{"no entry for the target", "filter", "allows tcp db.internal:5432 from laptop", func(f *Facts) { f.Filter.Value[0].Targets[0].Prefix = p("10.0.4.0/24") }},
	{"no entry for the port", "filter", "from laptop", func(f *Facts) { f.Filter.Value[0].Targets[0].Last = 443 }},
	{"no entry for the protocol", "filter", "from laptop", func(f *Facts) { f.Filter.Value[0].Protocols = []uint8{17} }},
	{"no entry for the client", "filter", "from laptop", func(f *Facts) { f.Filter.Value[0].Sources[0] = p("100.64.0.8/32") }},
	{"no entry for anyone", "filter", "has tcp db.internal:5432 as target", func(f *Facts) { f.Question.From, f.Filter.Value = "", nil }},
	{"an unknown client", "filter", `no node or user "laptop"`, func(f *Facts) { f.Clients.Value = nil }},
	{"a jailed client", "filter", "shared in", func(f *Facts) { f.Clients.Value[0].Refused = true }},
	{"denied", "deny", "a listener of the router", func(f *Facts) { f.Denied = "a listener of the router" }},
	{"flows used up", "limits", "100 of 100 flows", func(f *Facts) { f.Limits[0].Used = 100 }},
	{"no IPv6 address", "task-interface", "IP version", func(f *Facts) {
		f.Target = a("2600::4")
		f.Address = f.Target
		f.Routes.Value[0].Prefix = p("2600::/16")
		f.Filter.Value[0].Targets[0].Prefix = p("2600::/16")
		f.Clients.Value[0].Addrs = append(f.Clients.Value[0].Addrs, a("fd7a::7"))
		f.Filter.Value[0].Sources = []netip.Prefix{p("fd7a::7/128")}
	}},
	{"nothing has the address", "probe", "no answer within 3s", func(f *Facts) { f.Network.Target = Side{} }},
	{"no egress rule", "task-groups", "sg-task (router)", func(f *Facts) { f.Network.Task.Groups.Value[0].Egress = nil }},
	{"egress to another port", "task-groups", "tcp port 5432 to 10.0.3.4", func(f *Facts) {
		f.Network.Task.Groups.Value[0].Egress[0] = Rule{Protocol: "tcp", From: 443, To: 443, Prefixes: []netip.Prefix{p("0.0.0.0/0")}}
	}},
	{"egress to another group", "task-groups", "", func(f *Facts) {
		f.Network.Task.Groups.Value[0].Egress[0] = Rule{Protocol: "-1", Groups: []string{"sg-web"}}
	}},
	{"egress to another list", "task-groups", "", func(f *Facts) {
		f.Network.Lists = map[string]Fact[[]netip.Prefix]{"pl-1": Know([]netip.Prefix{p("10.0.4.0/24")})}
		f.Network.Task.Groups.Value[0].Egress[0] = Rule{Protocol: "-1", Lists: []string{"pl-1"}}
	}},
	{"no ingress rule", "target-groups", "sg-db (db) allows tcp port 5432 from 10.0.1.5", func(f *Facts) { f.Network.Target.Groups.Value[0].Ingress = nil }},
	{"ingress from another group", "target-groups", "", func(f *Facts) { f.Network.Target.Groups.Value[0].Ingress[0].Groups[0] = "sg-web" }},
	{"ingress of UDP", "target-groups", "", func(f *Facts) { f.Network.Target.Groups.Value[0].Ingress[0].Protocol = "udp" }},
	{"ingress from another CIDR", "target-groups", "", func(f *Facts) {
		f.Network.Target.Groups.Value[0].Ingress[0] = Rule{Protocol: "tcp", From: 0, To: 65535, Prefixes: []netip.Prefix{p("10.0.2.0/24")}}
	}},
	{"the task's ACL denies requests", "task-acl-out", "rule 90 of acl-1 denies tcp port 5432 to 10.0.3.4", func(f *Facts) {
		f.Network.Task.ACL.Value.Entries = append(slices.Clone(f.Network.Task.ACL.Value.Entries), ACLEntry{Number: 90, Egress: true, Protocol: "6", Prefix: p("10.0.3.0/24"), From: 5432, To: 5432})
	}},
	{"the task's ACL has no entry for requests", "task-acl-out", "rule * of acl-1", func(f *Facts) { f.Network.Task.ACL.Value.Entries = f.Network.Task.ACL.Value.Entries[1:] }},
	{"the target's ACL denies requests", "target-acl-in", "from 10.0.1.5", func(f *Facts) {
		f.Network.Target.ACL.Value.Entries = []ACLEntry{{Number: 100, Allow: true, Egress: true, Protocol: "-1", Prefix: p("0.0.0.0/0")}}
	}},
	{"the target's ACL denies replies", "target-acl-out", "port 32768-60999 to 10.0.1.5", func(f *Facts) {
		f.Network.Target.ACL.Value.Entries = []ACLEntry{
			{Number: 100, Allow: true, Protocol: "-1", Prefix: p("0.0.0.0/0")},
			{Number: 100, Allow: true, Egress: true, Protocol: "6", Prefix: p("0.0.0.0/0"), From: 5432, To: 5432}}
	}},
	{"the task's ACL denies replies", "task-acl-in", "port 32768-60999 from 10.0.3.4", func(f *Facts) {
		f.Network.Task.ACL.Value.Entries = []ACLEntry{{Number: 100, Allow: true, Egress: true, Protocol: "-1", Prefix: p("0.0.0.0/0")}}
	}},
	{"the task's ACL denies some replies", "task-acl-in", "denies 11000 of the 28232 tcp ports", func(f *Facts) {
		f.Network.Task.ACL.Value.Entries = []ACLEntry{
			{Number: 100, Allow: true, Egress: true, Protocol: "-1", Prefix: p("0.0.0.0/0")},
			{Number: 100, Allow: true, Protocol: "6", Prefix: p("0.0.0.0/0"), From: 1024, To: 49999}}
	}},
	{"no route in the table", "route-table", "rtb-1, the VPC's main table has no route to 10.0.3.4", func(f *Facts) { f.Network.Task.Table.Value.Routes = nil }},
	{"a blackhole", "route-table", "10.0.3.0/24 of rtb-1, the VPC's main table, is a blackhole, as eni-9", func(f *Facts) {
		f.Network.Task.Table.Value.Routes = append(slices.Clone(f.Network.Task.Table.Value.Routes), TableRoute{Prefix: p("10.0.3.0/24"), Target: "eni-9", Blackhole: true})
	}},
	{"only a default route", "route-table", "internet", func(f *Facts) {
		f.Network.Task.Table.Value.Routes = []TableRoute{{Prefix: p("0.0.0.0/0"), Target: "igw-1"}}
	}},
	{"a peering that ended", "peering", "pcx-1 is deleted", func(f *Facts) { peered(f, "deleted") }},
	{"no route back over the peering", "target-route-table", "rtb-2 has no route to 10.0.1.5", func(f *Facts) {
		peered(f, "active")
		f.Network.Target.Table.Value.Routes = []TableRoute{{Prefix: p("10.50.0.0/16"), Target: "local"}}
	}},
	{"a reply by a blackhole", "target-route-table", "blackhole", func(f *Facts) {
		f.Network.Target.Table.Value.Routes = append(slices.Clone(f.Network.Target.Table.Value.Routes), TableRoute{Prefix: p("10.0.1.0/24"), Target: "eni-9", Blackhole: true})
	}},
	{"no attachment of a transit gateway in the zone", "route-table", "no transit gateway has an attachment in eu-west-1a", func(f *Facts) {
		f.Network.Task.Interface.Value.Zone = "eu-west-1a"
		f.Network.Task.Table.Value.Routes = []TableRoute{{Prefix: p("10.0.3.0/24"), Target: "tgw-1"}}
		f.Network.TransitZones = Know([]string{"eu-west-1b", "eu-west-1c"})
	}},
	{"a reply by a NAT gateway", "target-route-table", "nat-1 drops replies to connections that did not begin behind it", func(f *Facts) {
		peered(f, "active")
		f.Network.Target.Table.Value.Routes[1] = TableRoute{Prefix: p("0.0.0.0/0"), Target: "nat-1"}
	}},
	{"nothing listens", "probe", "refused", func(f *Facts) { f.Probe = Probe{Outcome: Refused} }},
	{"no answer", "probe", "no answer within 3s", silent},
	{"unreachable", "probe", "no route to host", func(f *Facts) { f.Probe = Probe{Outcome: Unreachable, Err: "no route to host"} }},
	{"no socket", "probe", "too many open files", func(f *Facts) { f.Probe = Probe{Outcome: Failed, Err: "too many open files"} }},
}

// peered moves the target to another VPC behind a peering.
func peered(f *Facts, state string) {
	f.Network.Task.Table.Value.Routes = []TableRoute{{Prefix: p("10.0.1.0/24"), Target: "local"}, {Prefix: p("10.0.3.0/24"), Target: "pcx-1"}}
	f.Network.Peerings = map[string]Fact[Peering]{"pcx-1": Know(Peering{"pcx-1", state})}
	f.Network.Target.Interface.Value.VPC = "vpc-2"
	f.Network.Target.Table = Know(Table{ID: "rtb-2", Routes: []TableRoute{{Prefix: p("10.0.3.0/24"), Target: "local"}, {Prefix: p("10.0.0.0/16"), Target: "pcx-1"}}})
}

// TestFaults: the step that stops a flow is named, and no other, apart from the probe, which a
// dropped packet fails too.
func TestFaults(t *testing.T) {
	for _, tc := range faults {
		f := healthy()
		silent(&f)
		tc.change(&f)
		if f.Probe.Outcome == Silent && tc.step != "probe" && !networkSteps[tc.step] {
			f.Probe = Probe{Outcome: Answered} // the router reaches it, the client does not
		}
		got := Explain(f)
		if got.Passes || got.Stop != tc.step {
			t.Errorf("%s: got %q, want %s: %+v", tc.name, got.Stop, tc.step, got.Steps)
			continue
		}
		for _, s := range got.Steps {
			if s.Name == tc.step && !strings.Contains(s.Evidence, tc.evidence) {
				t.Errorf("%s: evidence %q lacks %q", tc.name, s.Evidence, tc.evidence)
			}
			if s.Verdict == Stop && s.Name != tc.step && s.Name != "probe" {
				t.Errorf("%s: %s stops it too: %s", tc.name, s.Name, s.Evidence)
			}
			if s.Verdict == Stop && s.Name == tc.step && s.Fix == "" && tc.step != "probe" && tc.step != "dns" && tc.step != "route" && tc.step != "router" {
				t.Errorf("%s: no fix", tc.name)
			}
		}
	}
}

// TestPairs: of two faults the first in the order of the steps is the answer, and the other is
// among the steps that stop the flow.
func TestPairs(t *testing.T) {
	for _, tc := range [][2]string{ // the earlier one first
		{"not approved", "no entry for the client"},
		{"no entry for the port", "no ingress rule"},
		{"no entry for the client", "nothing listens"},
		{"denied", "no egress rule"},
		{"flows used up", "no ingress rule"},
		{"no egress rule", "no ingress rule"},
		{"no egress rule", "the target's ACL denies replies"},
		{"no ingress rule", "the task's ACL denies requests"},
		{"ingress of UDP", "a blackhole"},
		{"the task's ACL denies requests", "the target's ACL denies replies"},
		{"the task's ACL denies replies", "only a default route"},
		{"a peering that ended", "no route back over the peering"},
	} {
		for _, order := range [][2]int{{0, 1}, {1, 0}} {
			f := healthy()
			silent(&f)
			var steps [2]string
			for _, i := range order {
				n := slices.IndexFunc(faults, func(f fault) bool { return f.name == tc[i] })
				faults[n].change(&f)
				steps[i] = faults[n].step
			}
			if tc == [2]string{"a peering that ended", "no route back over the peering"} {
				f.Network.Peerings["pcx-1"] = Know(Peering{"pcx-1", "deleted"})
				f.Network.Target.Table.Value.Routes = nil
			}
			got := Explain(f)
			also := slices.ContainsFunc(got.Steps, func(s Step) bool { return s.Name == steps[1] && s.Verdict == Stop })
			if got.Stop != steps[0] || !also {
				t.Errorf("%q: got %s, want %s and then %s: %+v", tc, got.Stop, steps[0], steps[1], got.Steps)
			}
		}
	}
}

// TestUnknown: a fact that is missing neither stops a flow nor hides the steps behind it.
func TestUnknown(t *testing.T) {
	allow := Missing{"AWS refuses to show it", "allow ec2:DescribeSecurityGroups"}
	for _, tc := range []struct {
		step   string
		change func(*Facts)
	}{
		{"filter", func(f *Facts) { f.Filter.Missing = allow }},
		{"filter", func(f *Facts) { f.Clients.Missing = allow }},
		{"task-interface", func(f *Facts) { f.Network.Task.Interface = Fact[*Interface]{Missing: allow} }},
		{"target-interface", func(f *Facts) { f.Network.Target.Interface = Fact[*Interface]{Missing: allow} }},
		{"task-groups", func(f *Facts) { f.Network.Task.Groups = Fact[[]Group]{Missing: allow} }},
		{"target-groups", func(f *Facts) { f.Network.Target.Groups = Fact[[]Group]{Missing: allow} }},
		{"target-groups", func(f *Facts) {
			f.Network.Lists = map[string]Fact[[]netip.Prefix]{"pl-1": {Missing: allow}}
			f.Network.Target.Groups.Value[0].Ingress[0] = Rule{Protocol: "-1", Lists: []string{"pl-1"}}
		}},
		{"task-groups", func(f *Facts) {
			f.Network.Target.Interface = Fact[*Interface]{Missing: allow}
			f.Network.Task.Groups.Value[0].Egress[0] = Rule{Protocol: "-1", Groups: []string{"sg-db"}}
		}},
		{"task-acl-out", func(f *Facts) { f.Network.Task.ACL = Fact[ACL]{Missing: allow} }},
		{"target-acl-out", func(f *Facts) { f.Network.Target.ACL = Fact[ACL]{Missing: allow} }},
		{"route-table", func(f *Facts) { f.Network.Task.Table = Fact[Table]{Missing: allow} }},
		{"route-table", func(f *Facts) {
			f.Network.Lists = map[string]Fact[[]netip.Prefix]{"pl-1": {Missing: allow}}
			f.Network.Task.Table.Value.Routes = append(slices.Clone(f.Network.Task.Table.Value.Routes), TableRoute{List: "pl-1", Target: "tgw-1"})
		}},
	} {
		f := healthy()
		tc.change(&f)
		got := Explain(f)
		found := false
		for _, s := range got.Steps {
			found = found || s.Name == tc.step && s.Verdict == Unknown && s.Fix == allow.Fix
		}
		if !got.Passes || !found {
			t.Errorf("%s: got %+v", tc.step, got)
		}
		if last := got.Steps[len(got.Steps)-1]; last.Name != "probe" || last.Verdict != Pass {
			t.Errorf("%s: the last step is %+v", tc.step, last)
		}
	}
}

// TestContradiction: packets that arrived prove that no rule stops them, except for a rule that
// stops only some.
func TestContradiction(t *testing.T) {
	for _, tc := range faults {
		if !networkSteps[tc.step] {
			continue
		}
		f := healthy()
		tc.change(&f)
		f.Probe = Probe{Outcome: Answered}
		got := Explain(f)
		if some := strings.Contains(tc.name, "some"); got.Passes == some {
			t.Errorf("%s: passes is %v", tc.name, got.Passes)
		}
		if s, ok := got.First(Unknown); got.Passes && (!ok || !strings.Contains(s.Evidence, "yet the probe was answered")) {
			t.Errorf("%s: got %+v", tc.name, s)
		}
	}
}

func TestICMP(t *testing.T) {
	f := healthy()
	f.Question = Question{Protocol: ICMP, Host: "10.0.3.4"}
	f.Network.Target.Groups.Value[0].Ingress[0] = Rule{Protocol: "icmp", From: 8, To: -1, Groups: []string{"sg-task"}}
	if got := Explain(f); !got.Passes {
		t.Errorf("got %+v", got)
	}
	silent(&f)
	f.Network.Target.Groups.Value[0].Ingress[0].From = 3
	if got := Explain(f); got.Stop != "target-groups" {
		t.Errorf("got %s for another type", got.Stop)
	}
	f.Network.Target.Groups.Value[0].Ingress[0].From = -1
	f.Network.Task.ACL = Know(ACL{ID: "acl-1", Entries: []ACLEntry{
		{Number: 1, Allow: true, Egress: true, Protocol: "1", Prefix: p("0.0.0.0/0"), Type: 8, Code: -1},
		{Number: 1, Allow: true, Protocol: "1", Prefix: p("0.0.0.0/0"), Type: 8, Code: -1}, // replies are of type 0
	}})
	if got := Explain(f); got.Stop != "task-acl-in" {
		t.Errorf("got %s without an entry for replies", got.Stop)
	}
	f.Network.Task.ACL.Value.Entries[1].Type = 0
	f.Probe = Probe{Outcome: Answered}
	if got := Explain(f); !got.Passes {
		t.Errorf("got %+v", got)
	}
}

func TestAsk(t *testing.T) {
	for text, want := range map[string]Question{
		"10.0.3.4:5432":    {TCP, "10.0.3.4", 5432, ""},
		"[fd00::4]:5432":   {TCP, "fd00::4", 5432, ""},
		"db.internal.:443": {TCP, "db.internal", 443, ""},
	} {
		if got, err := Ask(text, "", TCP); err != nil || got != want {
			t.Errorf("%s: got %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "10.0.3.4", "10.0.3.4:0", "10.0.3.4:65536", "10.0.3.4:http", ":5432", "a b:1", "a\x00:1", strings.Repeat("a", 300) + ":1", "http://db:1"} {
		if got, err := Ask(text, "", TCP); err == nil {
			t.Errorf("%q: got %+v, want an error", text, got)
		}
	}
	if got, err := Ask("db.internal", "ann@example.com", ICMP); err != nil || got.Port != 0 || got.String() != "icmp db.internal" {
		t.Errorf("got %+v, %v", got, err)
	}
}

// TestAddressWithoutInterface: AWS lists its own addresses with no interface, so that a missing one is no cause.
func TestAddressWithoutInterface(t *testing.T) {
	f := healthy()
	silent(&f)
	f.Network.Target = Side{}
	got := Explain(f)
	for _, s := range got.Steps {
		if s.Name == "target-interface" && (s.Verdict != Unknown || !strings.Contains(s.Evidence, "nor does a prefix delegated") || s.Fix == "") {
			t.Errorf("%+v", s)
		}
	}
	if got.Stop != "probe" {
		t.Errorf("stopped by %q, want the probe", got.Stop)
	}
}

// TestGateways: the way behind a gateway is not read, so that the step names the gateway and the
// parts to check there.
func TestGateways(t *testing.T) {
	for _, tc := range []struct {
		target, to string
		verdict    Verdict
		evidence   string
		fix        string
	}{
		{"tgw-1", "10.60.0.4", Unknown, "leads to tgw-1, whose attachments and route tables were not read", "route to 10.60.0.4"},
		{"vgw-1", "10.60.0.4", Unknown, "leads to vgw-1", "VPN or Direct Connect"},
		{"vpce-1", "10.60.0.4", Unknown, "leads to vpce-1", "the appliance"},
		{"eni-9", "10.60.0.4", Unknown, "leads to eni-9", "source/destination check"},
		{"nat-1", "10.60.0.4", Unknown, "leads to nat-1, which replaces the router's address", "public NAT gateway leads only to the internet"},
		{"igw-1", "100.64.0.4", Stop, "the internet does not lead to 100.64.0.4, which is not a public address", "add a route for 100.64.0.4/32 to rtb-1"},
		{"igw-1", "8.8.8.8", Pass, "leads to igw-1", ""},
		{"nat-1", "100.64.0.4", Unknown, "leads to nat-1", "public NAT gateway leads only to the internet"},
		{"nat-1", "198.19.0.4", Unknown, "leads to nat-1", "public NAT gateway leads only to the internet"},
		{"nat-1", "64:ff9b::a3c:4", Unknown, "leads to nat-1", "public NAT gateway leads only to the internet"},
		{"nat-1", "8.8.8.8", Pass, "leads to nat-1, which replaces the router's address by its own; a private NAT gateway does not lead to the internet", ""},
		{"nat-1", "100.128.0.4", Pass, "leads to nat-1", ""},
		{"nat-1", "64:ff9b::808:808", Pass, "leads to nat-1", ""},
		{"arn:aws:networkmanager::1:core-network/core-network-1", "10.60.0.4", Unknown, "behind which nothing was read", ""},
	} {
		to := a(tc.to)
		n := Network{}
		route := TableRoute{Prefix: netip.PrefixFrom(to, 16).Masked(), Target: tc.target}
		got := n.hop("route-table", Table{ID: "rtb-1"}, &route, Missing{}, to)
		if got.Verdict != tc.verdict || !strings.Contains(got.Evidence, tc.evidence) || !strings.Contains(got.Fix, tc.fix) || (got.Fix == "") != (tc.fix == "") {
			t.Errorf("%s to %s: %+v", tc.target, tc.to, got)
		}
	}
}

// TestTransitZone: a transit gateway's attachments stop a flow only if they are known and none is in the router's zone.
func TestTransitZone(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Network)
		stop   bool
	}{
		"elsewhere":       {func(*Network) {}, true},
		"none":            {func(n *Network) { n.TransitZones.Value = nil }, true},
		"here":            {func(n *Network) { n.TransitZones.Value = []string{"eu-west-1b", "eu-west-1a"} }, false},
		"not known":       {func(n *Network) { n.TransitZones = Lack[[]string]("no permission", "") }, false},
		"a shared VPC":    {func(n *Network) { n.Shared = true }, false},
		"an unknown zone": {func(n *Network) { n.Task.Interface.Value.Zone = "" }, false},
	} {
		n := Network{TransitZones: Know([]string{"eu-west-1b"}), Task: Side{Interface: Know(&Interface{Zone: "eu-west-1a"})}}
		tc.change(&n)
		route := TableRoute{Prefix: p("10.60.0.0/16"), Target: "tgw-1"}
		got := n.hop("route-table", Table{ID: "rtb-1"}, &route, Missing{}, a("10.60.0.4"))
		if (got.Verdict == Stop) != tc.stop || tc.stop && !strings.Contains(got.Fix, "add a subnet of eu-west-1a to the VPC's attachment of tgw-1") {
			t.Errorf("%s: %+v", name, got)
		}
		// The zone of the target is not known.
		if back := n.hop("target-route-table", Table{ID: "rtb-1"}, &route, Missing{}, a("10.60.0.4")); back.Verdict != Unknown {
			t.Errorf("%s: back: %+v", name, back)
		}
	}
}
