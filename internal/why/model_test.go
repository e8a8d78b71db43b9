package why

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// slowACL decides about one packet as AWS describes it: entry by entry, in the order of numbers.
func slowACL(entries []ACLEntry, egress bool, protocol uint8, icmpType int, other netip.Addr, port int) bool {
	sorted := slices.Clone(entries)
	slices.SortStableFunc(sorted, func(a, b ACLEntry) int { return cmp.Compare(a.Number, b.Number) })
	for _, e := range sorted {
		if e.Egress != egress || !e.Prefix.Contains(other) {
			continue
		}
		switch e.Protocol {
		case "-1":
			return e.Allow
		case "6", "17":
			if e.Protocol == fmt.Sprint(protocol) && e.From <= port && port <= e.To {
				return e.Allow
			}
		case "1", "58":
			if e.Protocol == fmt.Sprint(protocol) && (e.Type == -1 || e.Type == icmpType) && (e.Code == -1 || e.Code == 0) {
				return e.Allow
			}
		}
	}
	return false
}

func randomACL(r *rand.Rand, n int) (list []ACLEntry) {
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	for range n {
		from := r.IntN(60)
		list = append(list, ACLEntry{
			Number: 1 + r.IntN(50), Egress: r.IntN(2) == 0, Allow: r.IntN(2) == 0, Protocol: pick("-1", "6", "17", "1", "58"),
			Prefix: p(pick("10.0.3.4/32", "10.0.3.0/24", "10.0.2.0/24", "0.0.0.0/0", "::/0")),
			From:   from, To: from + r.IntN(20), Type: r.IntN(10) - 1, Code: r.IntN(2) - 1,
		})
	}
	return list
}

// TestACLModel compares the intervals of decide with one packet at a time.
func TestACLModel(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		entries := randomACL(r, r.IntN(8))
		// Numbers are unique in a direction.
		entries = slices.CompactFunc(sortEntries(entries), func(a, b ACLEntry) bool { return a.Number == b.Number && a.Egress == b.Egress })
		q := packet{protocol: []uint8{6, 17, 1}[r.IntN(3)], icmpType: r.IntN(9), other: a("10.0.3.4"), ports: ports{r.IntN(40), 0}}
		q.ports.last = q.ports.first + r.IntN(30)
		egress := r.IntN(2) == 0
		denied, _ := ACL{Entries: entries}.decide(q, egress)
		for port := q.ports.first; port <= q.ports.last; port++ {
			want := slowACL(entries, egress, q.protocol, q.icmpType, q.other, port)
			n := 0
			for _, d := range denied {
				if d.ports.first <= port && port <= d.ports.last {
					n++
				}
			}
			if n > 1 || (n == 0) != want {
				t.Fatalf("port %d of %+v: denied %d times, want allowed %v, by %+v", port, q, n, want, entries)
			}
		}
	}
}

func sortEntries(list []ACLEntry) []ACLEntry {
	slices.SortFunc(list, func(a, b ACLEntry) int {
		egress := func(e ACLEntry) int {
			if e.Egress {
				return 1
			}
			return 0
		}
		return cmp.Or(cmp.Compare(egress(a), egress(b)), cmp.Compare(a.Number, b.Number))
	})
	return list
}

// TestTableModel compares LookUp with a search by descending length.
func TestTableModel(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	lists := map[string]Fact[[]netip.Prefix]{"pl-1": Know([]netip.Prefix{p("10.0.0.0/12"), p("10.0.3.0/24")}), "pl-2": Know([]netip.Prefix{p("10.0.3.4/32")})}
	to := a("10.0.3.4")
	for range 20000 {
		var table Table
		for i := range r.IntN(8) {
			route := TableRoute{Target: fmt.Sprint("eni-", i), Propagated: r.IntN(3) == 0}
			if r.IntN(4) == 0 {
				route.List, route.Propagated = fmt.Sprint("pl-", 1+r.IntN(2)), false
			} else {
				bits := r.IntN(33)
				addr := to
				if r.IntN(3) == 0 {
					addr = a("10.77.3.4")
				}
				route.Prefix = netip.PrefixFrom(addr, bits).Masked()
			}
			table.Routes = append(table.Routes, route)
		}
		want := ""
		for bits := 32; bits >= 0 && want == ""; bits-- {
			for _, rank := range []int{2, 1, 0} {
				for _, route := range table.Routes {
					prefixes := []netip.Prefix{route.Prefix}
					if route.List != "" {
						prefixes = lists[route.List].Value
					}
					if want == "" && route.rank() == rank && slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Bits() == bits && p.Contains(to) }) {
						want = route.Target
					}
				}
			}
		}
		found, m := table.LookUp(to, lists)
		got := ""
		if found != nil {
			got = found.Target
		}
		if got != want || m != (Missing{}) {
			t.Fatalf("got %q, %v, want %q, of %+v", got, m, want, table.Routes)
		}
	}
}

// TestGroupModel compares checkGroups with every rule one by one.
func TestGroupModel(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	numbers := map[string]uint8{"tcp": 6, "udp": 17, "icmp": 1, "icmpv6": 58, "6": 6, "17": 17, "47": 47}
	for range 20000 {
		f := healthy()
		f.Question.Protocol, f.Question.Port = Protocol(pick("tcp", "udp", "icmp")), uint16(r.IntN(20))
		var rules []Rule
		want := false
		for range r.IntN(6) {
			rule := Rule{Protocol: pick("-1", "tcp", "udp", "icmp", "icmpv6", "6", "17", "47"), From: r.IntN(20) - 1}
			rule.To = rule.From + r.IntN(10)
			kind := r.IntN(3)
			match := r.IntN(2) == 0
			switch kind {
			case 0:
				rule.Prefixes = []netip.Prefix{p(map[bool]string{true: "10.0.0.0/16", false: "10.1.0.0/16"}[match])}
			case 1:
				rule.Groups = []string{map[bool]string{true: "sg-task", false: "sg-web"}[match]}
			case 2:
				rule.Lists = []string{map[bool]string{true: "pl-in", false: "pl-out"}[match]}
			}
			rules = append(rules, rule)
			number := f.Question.Protocol.number(f.Target)
			covered := rule.Protocol == "-1" || numbers[rule.Protocol] == number
			if covered && rule.Protocol != "-1" {
				if number == 1 {
					covered = rule.From == -1 || rule.From == 8 && (rule.To == -1 || rule.To == 0)
				} else {
					covered = rule.From <= int(f.Question.Port) && int(f.Question.Port) <= rule.To
				}
			}
			want = want || covered && match
		}
		f.Network.Lists = map[string]Fact[[]netip.Prefix]{"pl-in": Know([]netip.Prefix{p("10.0.1.5/32")}), "pl-out": Know([]netip.Prefix{p("10.0.3.4/32")})}
		f.Network.Target.Groups.Value[0].Ingress = rules
		task, _ := f.ends()
		got := f.Network.checkGroups(&f, "target-groups", f.Network.Target.Groups, task, Group.ingress, "inbound", "from")
		if (got.Verdict == Pass) != want {
			t.Fatalf("got %+v, want %v, by %+v", got, want, rules)
		}
	}
}

// FuzzACL: no entry makes decide panic, answer twice for a port, or answer for others.
func FuzzACL(f *testing.F) {
	f.Add("6", 10, 20, 15, 18, 5, true)
	f.Add("-1", -5, 70000, 0, 65535, 5, false)
	f.Fuzz(func(t *testing.T, protocol string, from, to, first, last, number int, allow bool) {
		if first < 0 || last > 65535 || first > last {
			t.Skip()
		}
		acl := ACL{Entries: []ACLEntry{{Number: number, Allow: allow, Protocol: protocol, Prefix: p("0.0.0.0/0"), From: from, To: to},
			{Number: number + 1, Allow: !allow, Protocol: "6", Prefix: p("0.0.0.0/0"), From: to, To: from}}}
		denied, _ := acl.decide(packet{protocol: 6, other: a("10.0.3.4"), ports: ports{first, last}}, false)
		total := 0
		for _, d := range denied {
			if d.ports.first < first || d.ports.last > last || d.ports.size() < 1 {
				t.Errorf("%+v is not in %d-%d", d, first, last)
			}
			total += d.ports.size()
		}
		if total > last-first+1 {
			t.Errorf("%d ports are denied of %d", total, last-first+1)
		}
	})
}

// FuzzAsk: a question that is accepted can be written and asked again.
func FuzzAsk(f *testing.F) {
	f.Add("10.0.3.4:5432", "laptop", false)
	f.Add("[fd00::4%eth0]:1", "a@b", true)
	f.Fuzz(func(t *testing.T, target, from string, icmp bool) {
		protocol := TCP
		if icmp {
			protocol = ICMP
		}
		q, err := Ask(target, from, protocol)
		if err != nil {
			return
		}
		text := q.String()[len(protocol)+1:]
		if again, err := Ask(text, from, protocol); err != nil || again != q {
			t.Errorf("%q is %+v, and %q is %+v, %v", target, q, text, again, err)
		}
	})
}
