package why

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestAccess(t *testing.T) {
	const rule = `{"securityGroups":["db"]}`
	allow := Decision{Node: "laptop", Allowed: true, Rule: rule}
	refuse := Decision{Node: "phone", Reasons: []string{"the rule has other ports"}}
	for name, tt := range map[string]struct {
		access   *Access
		verdict  Verdict // "": no step
		contains []string
	}{
		"off":                   {nil, "", nil},
		"stopped by the filter": {&Access{Target: "eni-1"}, "", nil},
		"no client":             {&Access{Target: "eni-1"}, Unknown, []string{"eni-1", "--from"}},
		"allowed":               {&Access{Decisions: []Decision{allow}}, Pass, []string{"laptop", rule}},
		"refused":               {&Access{Target: "eni-1", Decisions: []Decision{refuse}}, Stop, []string{"eni-1", "phone: the rule has other ports", "cap/aws", "10.0.3.4", "tcp:5432"}},
		"one of two":            {&Access{Decisions: []Decision{refuse, allow}}, Pass, []string{"from laptop", "not from phone"}},
		"only reported":         {&Access{Report: true, Decisions: []Decision{refuse}}, Pass, []string{"would refuse", "phone"}},
		"reported, passes":      {&Access{Report: true, Decisions: []Decision{allow}}, Pass, []string{"laptop"}},
	} {
		from := "someone"
		if name == "no client" {
			from = ""
		}
		f := &Facts{Question: Question{Protocol: TCP, Host: "10.0.3.4", Port: 5432, From: from}, Target: netip.MustParseAddr("10.0.3.4"), Access: tt.access}
		got := access(f)
		if tt.verdict == "" {
			if got != nil {
				t.Errorf("%s: %+v, want no step", name, got)
			}
			continue
		}
		if len(got) != 1 || got[0].Verdict != tt.verdict {
			t.Errorf("%s: %+v, want %s", name, got, tt.verdict)
			continue
		}
		for _, part := range tt.contains {
			if text := got[0].Evidence + got[0].Fix; !strings.Contains(text, part) {
				t.Errorf("%s: %q does not contain %q", name, text, part)
			}
		}
	}
}

// TestAdmitted: a rule of ROUTER_ACCESS counts only for a client that the packet filter lets through.
func TestAdmitted(t *testing.T) {
	laptop := Client{Node: "laptop", Addrs: []netip.Addr{a("100.64.0.7")}}
	phone := Client{Node: "phone", Addrs: []netip.Addr{a("100.64.0.8")}, Caps: []string{"mobile"}}
	jailed := Client{Node: "jailed", Addrs: laptop.Addrs, Refused: true}
	to := []PortRange{{Prefix: p("10.0.0.0/16"), First: 5432, Last: 5432}}
	entry := Entry{Protocols: []uint8{6}, Sources: []netip.Prefix{p("100.64.0.7/32")}, Targets: to}
	for name, tc := range map[string]struct {
		filter Fact[[]Entry]
		want   []string
	}{
		"one node":    {Know([]Entry{entry}), []string{"laptop"}},
		"by cap":      {Know([]Entry{{Protocols: []uint8{6}, Caps: []string{"mobile"}, Targets: to}}), []string{"phone"}},
		"no target":   {Know([]Entry{{Protocols: []uint8{6}, Sources: entry.Sources, Targets: []PortRange{{Prefix: p("10.9.0.0/16"), Last: 65535}}}}), nil},
		"not known":   {Lack[[]Entry]("no filter yet", ""), []string{"laptop", "phone"}},
		"no entry":    {Know[[]Entry](nil), nil},
		"other proto": {Know([]Entry{{Protocols: []uint8{17}, Sources: entry.Sources, Targets: to}}), nil},
	} {
		f := Facts{Question: Question{Protocol: TCP, Port: 5432}, Address: a("10.0.3.4"), Filter: tc.filter, Clients: Know([]Client{laptop, phone, jailed})}
		var got []string
		for _, c := range f.Admitted() {
			got = append(got, c.Node)
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %v, want %v", name, got, tc.want)
		}
	}
}
