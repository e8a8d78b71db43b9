package access

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func flow(s string) Flow {
	name, target, _ := strings.Cut(s, " ")
	f := Flow{Protocol: Protocol(slices.Index(protocolNames[:], name))}
	if f.Protocol == ICMP {
		f.Target = netip.AddrPortFrom(addr(target), 0)
	} else {
		f.Target = netip.MustParseAddrPort(target)
	}
	return f
}

// The VPC of the tests: a database, a web server, an instance with a delegated prefix, and an address
// that two interfaces have.
func inventory() *Inventory {
	db, web := Group{"sg-db", "databases"}, Group{"sg-web", "web"}
	return NewInventory("vpc-1", []Interface{
		{ID: "eni-db", VPC: "vpc-1", Groups: []Group{db}, Addrs: []netip.Addr{addr("10.0.3.4"), addr("2001:db8::4")}},
		{ID: "eni-web", VPC: "vpc-1", Groups: []Group{web, db}, Tags: map[string]string{"env": "prod"}, InstanceTags: map[string]string{"env": "test", "team": "a"}, Addrs: []netip.Addr{addr("10.0.3.5"), addr("10.0.3.6")}},
		{ID: "eni-node", VPC: "vpc-1", Tags: map[string]string{"env": ""}, Addrs: []netip.Addr{addr("10.0.4.1")}, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.4.16/28"), netip.MustParsePrefix("2001:db8:0:1::/80")}},
		{ID: "eni-old", VPC: "vpc-1", Groups: []Group{db}, Addrs: []netip.Addr{addr("10.0.5.1")}},
		{ID: "eni-new", VPC: "vpc-1", Groups: []Group{web}, Addrs: []netip.Addr{addr("10.0.5.1")}},
	})
}

func TestDecide(t *testing.T) {
	const db, web, unseen = "tcp 10.0.3.4:5432", "tcp 10.0.3.5:443", "tcp 10.9.0.1:22"
	for _, tc := range []struct {
		rule, flow string
		want       bool
	}{
		{`{"securityGroups":["sg-db"]}`, db, true},
		{`{"securityGroups":["databases"]}`, db, true},
		{`{"securityGroups":["Databases"]}`, db, false},
		{`{"securityGroups":["sg-db"]}`, "tcp [2001:db8::4]:5432", true},
		{`{"securityGroups":["sg-x","databases"]}`, "tcp 10.0.3.6:1", true},
		{`{"securityGroups":["sg-web"]}`, db, false},
		{`{"securityGroups":["sg-db"]}`, unseen, false},
		{`{"securityGroups":["sg-db"],"ports":["tcp:5432"]}`, db, true},
		{`{"securityGroups":["sg-db"],"ports":["tcp:5432"]}`, "udp 10.0.3.4:5432", false},
		{`{"securityGroups":["sg-db"],"ports":["tcp:5433-5440","tcp:1-5431"]}`, db, false},
		{`{"securityGroups":["sg-db"],"ports":["tcp:5000-5432"]}`, db, true},
		{`{"securityGroups":["sg-db"],"ports":["tcp:*"]}`, "icmp 10.0.3.4", false},
		{`{"securityGroups":["sg-db"],"ports":["icmp:*"]}`, "icmp 10.0.3.4", true},
		{`{"securityGroups":["sg-db"],"ports":["icmp:*"]}`, db, false},
		{`{"securityGroups":["sg-db"],"ports":["*"]}`, "icmp 10.0.3.4", true},
		{`{"securityGroups":["sg-db"]}`, "icmp 10.0.3.4", true},
		// Tags: all of them, of the interface or of its instance.
		{`{"tags":{"env":"prod"}}`, web, true},
		{`{"tags":{"env":"test"}}`, web, true},
		{`{"tags":{"env":"prod","team":"a"}}`, web, true},
		{`{"tags":{"env":"prod","team":"b"}}`, web, false},
		{`{"tags":{"env":"pro*"}}`, web, false},
		{`{"tags":{"env":""}}`, "tcp 10.0.4.1:80", true},
		{`{"tags":{"missing":""}}`, "tcp 10.0.4.1:80", false},
		{`{"tags":{"env":"prod"},"securityGroups":["databases"]}`, web, true},
		{`{"tags":{"env":"prod"},"securityGroups":["other"]}`, web, false},
		// Delegated prefixes.
		{`{"tags":{"env":""}}`, "tcp 10.0.4.17:80", true},
		{`{"tags":{"env":""}}`, "tcp 10.0.4.32:80", false},
		{`{"tags":{"env":""}}`, "tcp [2001:db8:0:1::99]:80", true},
		// VPCs: of the interface; of the router for an address without one.
		{`{"vpcs":["vpc-1"]}`, db, true},
		{`{"vpcs":["vpc-2"]}`, db, false},
		{`{"vpcs":["vpc-1"]}`, unseen, false},
		{`{"vpcs":["vpc-1"],"cidrs":["10.9.0.0/16"]}`, unseen, true},
		{`{"vpcs":["vpc-2"],"cidrs":["10.9.0.0/16"]}`, unseen, false},
		{`{"vpcs":["vpc-1","vpc-2"],"securityGroups":["sg-db"]}`, db, true},
		{`{"securityGroups":["a","b","c","d","e","f","g","h","sg-db"]}`, db, true}, // more names than a set compares one by one
		{`{"securityGroups":["a","b","c","d","e","f","g","h","i"]}`, db, false},
		// CIDRs.
		{`{"cidrs":["10.9.0.0/16"]}`, unseen, true},
		{`{"cidrs":["10.9.0.1"],"ports":["tcp:22"]}`, unseen, true},
		{`{"cidrs":["10.9.0.0/16"],"securityGroups":["sg-db"]}`, unseen, false},
		{`{"cidrs":["10.0.3.0/24"],"securityGroups":["sg-db"]}`, db, true},
		{`{"cidrs":["10.9.0.0/16"],"securityGroups":["sg-db"]}`, db, false},
		{`{"cidrs":["10.0.0.0/8"]}`, db, true},
		{`{"cidrs":["::/0"]}`, db, false},
		// Two interfaces with one address: both have to match.
		{`{"securityGroups":["sg-db"]}`, "tcp 10.0.5.1:5432", false},
		{`{"securityGroups":["sg-db","sg-web"]}`, "tcp 10.0.5.1:5432", true},
	} {
		p := Parse([]string{tc.rule})
		if len(p.Problems()) > 0 {
			t.Errorf("%s: %v", tc.rule, p.Problems())
		}
		got := p.Decide(inventory(), flow(tc.flow))
		if (got != nil) != tc.want {
			t.Errorf("%s, %s: got %v, want %v", tc.rule, tc.flow, got, tc.want)
		}
		if got != nil && got.String() != tc.rule {
			t.Errorf("got rule %s, want %s", got, tc.rule)
		}
		if e := p.Explain(inventory(), flow(tc.flow)); e.Allowed != tc.want || tc.want != (e.Rule == tc.rule) || tc.want != (len(e.Reasons) == 0) || e.Target == "" {
			t.Errorf("%s, %s: explained as %+v", tc.rule, tc.flow, e)
		}
	}
}

// A malformed rule allows nothing and is reported; the other rules count.
func TestMalformedRules(t *testing.T) {
	for rule, want := range map[string]string{
		``: "not a JSON object", `null`: "not a JSON object", `[]`: "not a JSON object", `"x"`: "not a JSON object",
		`{"cidrs":["10.0.0.0/8"]`:                                  "not a JSON object",
		`{"cidrs":["10.0.0.0/8"]} {}`:                              "not a JSON object",
		`{"cidrs":["10.0.0.0/8"],"ports":["tcp:1"],"ports":["*"]}`: "each field once",
		`{}`:                                   "names no target",
		`{"ports":["*"]}`:                      "names no target",
		`{"cidrs":["10.0.0.0/8"],"deny":true}`: "deny: there is no such field",
		`{"cidrs":["10.0.0.0/8"],"Ports":["tcp:1"]}`:                                "Ports: there is no such field",
		`{"cidrs":["10.0.0.0/8"],"ports":[]}`:                                       "0 elements",
		`{"cidrs":["10.0.0.0/8"],"ports":null}`:                                     "write a list",
		`{"cidrs":["10.0.0.0/8"],"securityGroups":null}`:                            "write a list",
		`{"cidrs":["10.0.0.0/8"],"securityGroups":[null]}`:                          "write a list",
		`{"cidrs":["10.0.0.0/8"],"securityGroups":[""]}`:                            "not the ID or name",
		`{"cidrs":["10.0.0.0/8"],"tags":{}}`:                                        "0 tags",
		`{"cidrs":["10.0.0.0/8"],"tags":null}`:                                      "write an object",
		`{"cidrs":["10.0.0.0/8"],"tags":{"a":null}}`:                                "write an object",
		`{"cidrs":["10.0.0.0/8"],"tags":{"a":1}}`:                                   "write an object",
		`{"cidrs":["10.0.0.0/8"],"tags":{"":"a"}}`:                                  "key of a tag",
		`{"cidrs":["10.0.0.0/8"],"vpcs":["*"]}`:                                     "not the ID of a VPC",
		`{"cidrs":"10.0.0.0/8"}`:                                                    "write a list",
		`{"cidrs":["10.0.0.1/8"]}`:                                                  "use 10.0.0.0/8",
		`{"cidrs":["::ffff:10.0.0.0/104"]}`:                                         "not a CIDR",
		`{"cidrs":["fe80::1%eth0"]}`:                                                "not a CIDR",
		`{"cidrs":["10.0.0.0/8"],"ports":["5432"]}`:                                 "not a port",
		`{"cidrs":["10.0.0.0/8"],"ports":["tcp:0"]}`:                                "not a port",
		`{"cidrs":["10.0.0.0/8"],"ports":["tcp:65536"]}`:                            "not a port",
		`{"cidrs":["10.0.0.0/8"],"ports":["tcp:9-1"]}`:                              "not a port",
		`{"cidrs":["10.0.0.0/8"],"ports":["tcp:+1"]}`:                               "not a port",
		`{"cidrs":["10.0.0.0/8"],"ports":["tcp:1-"]}`:                               "not a port",
		`{"cidrs":["10.0.0.0/8"],"ports":["tcp"]}`:                                  "not a port",
		`{"cidrs":["10.0.0.0/8"],"ports":["sctp:1"]}`:                               "not a port",
		`{"cidrs":["10.0.0.0/8"],"ports":["icmp:8"]}`:                               "not a port",
		`{"cidrs":["10.0.0.0/8"],"ports":["tcp:1 "]}`:                               "not a port",
		`{"cidrs":["10.0.0.0/8"]}` + strings.Repeat(" ", maxValue):                  "longer than",
		`{"cidrs":[` + strings.Repeat(`"10.0.0.0/8",`, maxItems) + `"10.0.0.0/8"]}`: "use 1 to 256",
	} {
		p := Parse([]string{rule})
		if p.Len() != 0 || len(p.Problems()) != 1 || !strings.Contains(p.Problems()[0], want) {
			t.Errorf("%s: got %d rules, %q, want an error with %q", rule, p.Len(), p.Problems(), want)
		}
		if p.Decide(inventory(), flow("tcp 10.0.3.4:5432")) != nil {
			t.Errorf("%s allows a flow", rule)
		}
		both := Parse([]string{rule, `{"cidrs":["10.0.3.4"]}`})
		if both.Decide(inventory(), flow("tcp 10.0.3.4:5432")) == nil {
			t.Errorf("%s: another rule does not count", rule)
		}
	}
	many := Parse(slices.Repeat([]string{`{"cidrs":["10.0.0.0/8"]}`}, maxRules+1))
	if many.Len() != maxRules || len(many.Problems()) != 1 {
		t.Errorf("got %d rules, %v", many.Len(), many.Problems())
	}
	if e := (*Policy)(nil).Explain(nil, flow("tcp 10.0.3.4:1")); e.Allowed || len(e.Reasons) != 1 || (*Policy)(nil).Decide(nil, flow("tcp 10.0.3.4:1")) != nil {
		t.Errorf("a client without a grant: %+v", e)
	}
}

// element is the contract's form of a rule, for the slow model.
type element struct {
	VPCs           []string          `json:"vpcs,omitempty"`
	SecurityGroups []string          `json:"securityGroups,omitempty"`
	Tags           map[string]string `json:"tags,omitempty"`
	CIDRs          []string          `json:"cidrs,omitempty"`
	Ports          []string          `json:"ports,omitempty"`
}

// model decides by the text of docs/decisions/0016-access.md, without any index.
func model(elements []element, vpc string, interfaces []Interface, f Flow) bool {
	var exact, delegated []Interface
	longest := -1
	for _, i := range interfaces {
		if slices.Contains(i.Addrs, f.Target.Addr()) {
			exact = append(exact, i)
		}
		for _, p := range i.Prefixes {
			if p.Contains(f.Target.Addr()) && p.Bits() >= longest {
				if p.Bits() > longest {
					delegated = nil
				}
				longest = p.Bits()
				delegated = append(delegated, i)
			}
		}
	}
	at := exact
	if len(at) == 0 {
		at = delegated
	}
	for _, e := range elements {
		if e.allows(vpc, at, f) {
			return true
		}
	}
	return false
}

func (e element) allows(vpc string, at []Interface, f Flow) bool {
	if len(e.VPCs)+len(e.SecurityGroups)+len(e.Tags)+len(e.CIDRs) == 0 {
		return false
	}
	if e.Ports != nil && !slices.ContainsFunc(e.Ports, func(s string) bool { return covers(s, f) }) {
		return false
	}
	if e.CIDRs != nil && !slices.ContainsFunc(e.CIDRs, func(s string) bool { return netip.MustParsePrefix(s).Contains(f.Target.Addr()) }) {
		return false
	}
	if len(at) == 0 {
		return e.SecurityGroups == nil && e.Tags == nil && e.CIDRs != nil && (e.VPCs == nil || slices.Contains(e.VPCs, vpc))
	}
	for _, i := range at {
		if e.VPCs != nil && !slices.Contains(e.VPCs, i.VPC) {
			return false
		}
		if e.SecurityGroups != nil && !slices.ContainsFunc(i.Groups, func(g Group) bool {
			return slices.Contains(e.SecurityGroups, g.ID) || slices.Contains(e.SecurityGroups, g.Name)
		}) {
			return false
		}
		for k, v := range e.Tags {
			a, ok1 := i.Tags[k]
			b, ok2 := i.InstanceTags[k]
			if !(ok1 && a == v || ok2 && b == v) {
				return false
			}
		}
	}
	return true
}

func covers(s string, f Flow) bool {
	if s == "*" {
		return true
	}
	name, numbers, _ := strings.Cut(s, ":")
	if name != f.Protocol.String() {
		return false
	}
	if numbers == "*" {
		return true
	}
	low, high, isRange := strings.Cut(numbers, "-")
	if !isRange {
		high = low
	}
	first, _ := strconv.Atoi(low)
	last, _ := strconv.Atoi(high)
	return first <= int(f.Target.Port()) && int(f.Target.Port()) <= last
}

// some returns up to most random elements of a list; nil for none.
func some(r *rand.Rand, most int, from ...string) (list []string) {
	for range r.IntN(most + 1) {
		list = append(list, from[r.IntN(len(from))])
	}
	return list
}

// TestModel compares decisions about random flows, rules and interfaces with those of the model.
func TestModel(t *testing.T) {
	seed := rand.Uint64()
	if s := os.Getenv("ACCESS_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	r := rand.New(rand.NewPCG(seed, 0))
	vpcs := []string{"vpc-1", "vpc-2"}
	tags := func() map[string]string {
		m := map[string]string{}
		for _, k := range some(r, 2, "env", "team") {
			m[k] = []string{"", "prod", "test"}[r.IntN(3)]
		}
		if len(m) == 0 {
			return nil
		}
		return m
	}
	address := func() netip.Addr {
		if r.IntN(4) == 0 {
			return netip.AddrFrom16([16]byte{0x20, 1, 15: byte(r.IntN(8))})
		}
		return netip.AddrFrom4([4]byte{10, byte(r.IntN(2)), 0, byte(r.IntN(40))})
	}
	allowed := 0
	const rounds = 20_000
	for range rounds {
		var interfaces []Interface
		for n := range r.IntN(6) {
			i := Interface{ID: fmt.Sprint("eni-", n), VPC: vpcs[r.IntN(2)], Tags: tags(), InstanceTags: tags()}
			for _, g := range some(r, 2, "a", "b", "c") {
				i.Groups = append(i.Groups, Group{"sg-" + g, "name-" + g})
			}
			for range r.IntN(3) {
				if r.IntN(3) == 0 {
					p, _ := address().Prefix(28)
					i.Prefixes = append(i.Prefixes, p)
				} else {
					i.Addrs = append(i.Addrs, address())
				}
			}
			interfaces = append(interfaces, i)
		}
		var elements []element
		var values []string
		for range r.IntN(4) {
			e := element{
				VPCs: some(r, 1, vpcs...), SecurityGroups: some(r, 2, "sg-a", "name-b", "sg-c", "other"), Tags: tags(),
				CIDRs: some(r, 1, "10.0.0.0/16", "10.1.0.0/24", "10.0.0.0/28", "0.0.0.0/0", "::/0"),
				Ports: some(r, 2, "tcp:1", "tcp:1-3", "udp:2", "udp:*", "icmp:*", "*"),
			}
			if r.IntN(2) == 0 {
				e.Tags = nil
			}
			if r.IntN(2) == 0 {
				e.SecurityGroups = nil
			}
			elements = append(elements, e)
			b, _ := json.Marshal(e)
			values = append(values, string(b))
		}
		f := Flow{Protocol: Protocol(r.IntN(int(protocolCount))), Target: netip.AddrPortFrom(address(), uint16(1+r.IntN(4)))}
		if len(interfaces) > 0 && len(interfaces[0].Addrs) > 0 && r.IntN(2) == 0 {
			f.Target = netip.AddrPortFrom(interfaces[0].Addrs[0], f.Target.Port())
		}
		inv := NewInventory("vpc-1", interfaces)
		got := Parse(values).Decide(inv, f) != nil
		want := model(elements, "vpc-1", interfaces, f)
		if got != want {
			t.Fatalf("%v with %v and %+v: got %v, want %v (ACCESS_SEED=%d)", f, values, interfaces, got, want, seed)
		}
		if got {
			allowed++
		}
	}
	if allowed < rounds/50 || allowed > rounds*49/50 {
		t.Errorf("%d of %d flows were allowed: the test compares little (ACCESS_SEED=%d)", allowed, rounds, seed)
	}
}

// FuzzParse requires of any value that it is a rule or an error, that a rule's own text is the same rule, and
// that neither fails on a flow.
func FuzzParse(f *testing.F) {
	for _, s := range []string{`{"vpcs":["vpc-1"],"securityGroups":["sg-1","web"],"tags":{"env":"prod"},"cidrs":["10.9.0.0/16"],"ports":["tcp:5432","icmp:*"]}`,
		`{"cidrs":["::/0"],"cidrs":[]}`, `{"cidrs":[null]}`, `{"ports":["tcp:1-2"]}`, `[]`, "\xff", `{"\u0063idrs":["10.0.0.0/8"]}`} {
		f.Add(s)
	}
	inv := inventory()
	f.Fuzz(func(t *testing.T, value string) {
		p := Parse([]string{value})
		if p.Len()+len(p.Problems()) != 1 {
			t.Fatalf("%d rules, %d errors", p.Len(), len(p.Problems()))
		}
		for _, name := range []string{"tcp 10.0.3.4:5432", "udp 10.9.0.1:53", "icmp 10.0.3.5"} {
			rule := p.Decide(inv, flow(name))
			if e := p.Explain(inv, flow(name)); e.Allowed != (rule != nil) {
				t.Fatalf("explained as %+v", e)
			}
			if rule == nil || len(rule.String()) >= maxRuleShown {
				continue
			}
			var fields map[string]any
			if json.Unmarshal([]byte(value), &fields) != nil || len(fields) == 0 {
				t.Fatalf("%q is no object and allows %s", value, name)
			}
			if Parse([]string{rule.String()}).Decide(inv, flow(name)) == nil {
				t.Fatalf("%q allows %s, its text %q does not", value, name, rule)
			}
		}
	})
}

// BenchmarkDecide decides about flows of 1,000 clients to 10,000 interfaces.
func BenchmarkDecide(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	var interfaces []Interface
	for n := range 10_000 {
		interfaces = append(interfaces, Interface{
			ID: fmt.Sprint("eni-", n), VPC: "vpc-1", Groups: []Group{{fmt.Sprint("sg-", n%200), fmt.Sprint("group-", n%200)}, {"sg-all", "all"}},
			Tags: map[string]string{"env": []string{"prod", "test"}[n%2], "app": fmt.Sprint(n % 100)}, Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)})},
		})
	}
	inv := NewInventory("vpc-1", interfaces)
	var policies []*Policy
	for range 1000 {
		var values []string
		for range 10 {
			values = append(values, fmt.Sprintf(`{"securityGroups":["sg-%d","group-%d"],"tags":{"env":"prod"},"ports":["tcp:5432","tcp:443"]}`, r.IntN(200), r.IntN(200)))
		}
		policies = append(policies, Parse(values))
	}
	b.ReportAllocs()
	for b.Loop() {
		n := r.IntN(10_000)
		f := Flow{TCP, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), 5432)}
		policies[r.IntN(1000)].Decide(inv, f)
	}
}
