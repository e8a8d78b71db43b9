package splitdns_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"subnetrouter/internal/splitdns"
)

func parse(t *testing.T, text string) (out splitdns.Table) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func own(address string, domains ...string) splitdns.Own {
	return splitdns.Own{Nameserver: netip.MustParseAddr(address), Domains: domains}
}

func TestChanges(t *testing.T) {
	const via = "fd7a:115c:a1e0:b1a:0:7:a00:2"
	for name, test := range map[string]struct {
		own              splitdns.Own
		now              string
		register, remove string // the lists that change
		shared           []string
	}{
		"nothing registered": {own("10.0.0.2", "a", "b"), `{}`, `{"a":["10.0.0.2"],"b":["10.0.0.2"]}`, `{}`, nil},
		"no table":           {own("10.0.0.2", "a"), `null`, `{"a":["10.0.0.2"]}`, `{}`, nil},
		"registered":         {own("10.0.0.2", "a"), `{"a":["10.0.0.2"]}`, `{}`, `{"a":[]}`, nil},
		"in other domains":   {own("10.0.0.2", "a"), `{"a":["10.0.0.2"],"Y.":["10.0.0.2","10.9.0.2"],"z":["10.0.0.2"]}`, `{}`, `{"Y.":["10.9.0.2"],"a":[],"z":[]}`, nil},
		"another service":    {own("10.0.0.2", "a"), `{"a":["10.9.0.2"]}`, `{"a":["10.9.0.2","10.0.0.2"]}`, `{}`, []string{"a"}},
		"both services":      {own("10.0.0.2", "a"), `{"a":["10.0.0.2","10.9.0.2"]}`, `{}`, `{"a":["10.9.0.2"]}`, nil},
		"options stay": {own("10.0.0.2", "a", "b"), `{"a":[{"address":"10.0.0.2","useWithExitNode":true}],"b":[{"useWithExitNode":true,"address":"10.9.0.2","new":[1]}]}`,
			`{"b":[{"useWithExitNode":true,"address":"10.9.0.2","new":[1]},"10.0.0.2"]}`, `{"a":[]}`, []string{"b"}},
		"4via6":                {own(via, "a"), `{"a":["10.0.0.2"]}`, `{"a":["10.0.0.2","` + via + `"]}`, `{}`, []string{"a"}},
		"4via6, registered":    {own(via, "a"), `{"a":["FD7A:115C:A1E0:0b1a::7:10.0.0.2"]}`, `{}`, `{"a":[]}`, nil},
		"no addresses":         {own("10.0.0.2", "a"), `{"a":["https://dns.example/x",7,null,{"address":3},"10.0.0.2:53"]}`, `{"a":["https://dns.example/x",7,null,{"address":3},"10.0.0.2:53","10.0.0.2"]}`, `{}`, []string{"a"}},
		"mapped":               {own("10.0.0.2", "a"), `{"a":["::ffff:10.0.0.2"]}`, `{}`, `{"a":[]}`, nil},
		"twice":                {own("10.0.0.2", "a"), `{"a":["10.0.0.2","10.0.0.2"]}`, `{}`, `{"a":[]}`, nil},
		"another spelling":     {own("10.0.0.2", "a.example", "b.example"), `{"A.Example":["10.9.0.2"],"b.example.":["10.0.0.2"]}`, `{"A.Example":["10.9.0.2","10.0.0.2"]}`, `{"b.example.":[]}`, []string{"A.Example"}},
		"two spellings":        {own("10.0.0.2", "a"), `{"A":["10.9.0.2"],"a":["10.0.0.2"]}`, `{}`, `{"a":[]}`, nil},
		"an empty list":        {own("10.0.0.2", "a"), `{"a":[],"b":null}`, `{"a":["10.0.0.2"]}`, `{}`, nil},
		"a domain named twice": {own("10.0.0.2", "a", "a"), `{"a":["10.9.0.2"]}`, `{"a":["10.9.0.2","10.0.0.2"]}`, `{}`, []string{"a"}},
	} {
		now := parse(t, test.now)
		register, remove := splitdns.Register(test.own, now), splitdns.Remove(test.own.Nameserver, now)
		if got := text(register.Lists); got != test.register || !slices.Equal(register.Shared, test.shared) {
			t.Errorf("%s: register %s, shared %q\nwant %s, %q", name, got, register.Shared, test.register, test.shared)
		}
		if got := text(remove.Lists); got != test.remove {
			t.Errorf("%s: remove %s, want %s", name, got, test.remove)
		}
		if text(now) != text(parse(t, test.now)) {
			t.Errorf("%s: the table was modified: %s", name, text(now))
		}
	}
	if c := splitdns.Register(splitdns.Own{Domains: []string{"a"}}, nil); !c.None() {
		t.Errorf("without a nameserver: %v", text(c.Lists))
	}
	if c := splitdns.Remove(netip.Addr{}, parse(t, `{"a":["https://dns.example"]}`)); !c.None() {
		t.Errorf("a removal without a nameserver: %v", text(c.Lists))
	}
}

func TestWithout(t *testing.T) {
	c := splitdns.Register(own("10.0.0.2", "a", "b", "c"), parse(t, `{"a":["10.9.0.2"],"b":["10.9.0.2"]}`))
	c = c.Without([]string{"a", "x"})
	if got := c.Domains(); !slices.Equal(got, []string{"b", "c"}) || !slices.Equal(c.Shared, []string{"b"}) {
		t.Errorf("domains %q, shared %q", got, c.Shared)
	}
}

func TestHasOptions(t *testing.T) {
	for list, want := range map[string]bool{
		`[]`: false, `["10.0.0.2",7,null,[true]]`: false, `[{"address":"10.0.0.2"}]`: false,
		`[{"address":"10.0.0.2","useWithExitNode":false}]`:           false,
		`["10.9.0.2",{"address":"10.0.0.2","useWithExitNode":true}]`: true,
		`[{"address":"10.0.0.2","new":{"x":1}}]`:                     true,
	} {
		if got := splitdns.HasOptions(parse(t, `{"a":`+list+`}`)["a"]); got != want {
			t.Errorf("%s: %v", list, got)
		}
	}
}

var (
	domains = []string{"a.example", "b.example", "c.example", "A.example", "b.example.", "d"}
	others  = []string{`"10.9.0.2"`, `"10.8.0.2"`, `{"address":"10.7.0.2","useWithExitNode":true}`, `"https://dns.example"`, `null`, `{"x":1}`}
)

// world returns a random table of others' nameservers.
func world(r *rand.Rand) splitdns.Table {
	t := splitdns.Table{}
	for _, d := range domains {
		for range r.IntN(4) {
			t[d] = append(t[d], json.RawMessage(others[r.IntN(len(others))]))
		}
	}
	return t
}

func router(r *rand.Rand, address string) splitdns.Own {
	zones := []string{"a.example", "b.example", "c.example", "d", "e.example"}
	r.Shuffle(len(zones), func(i, j int) { zones[i], zones[j] = zones[j], zones[i] })
	return own(address, zones[:1+r.IntN(len(zones))]...)
}

// foreign returns the table without the nameservers of routers, and without empty lists.
func foreign(t splitdns.Table, routers ...splitdns.Own) splitdns.Table {
	out := splitdns.Table{}
	for d, list := range t {
		for _, n := range list {
			if !slices.ContainsFunc(routers, func(o splitdns.Own) bool { return splitdns.Address(n) == o.Nameserver }) {
				out[d] = append(out[d], n)
			}
		}
	}
	return out
}

// TestProperties checks with random tables: a second registration changes nothing, the
// nameservers of others and other domains stay, the order of own domains does not matter, and a
// removal reverts a registration.
func TestProperties(t *testing.T) {
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 1))
		before, o := world(r), router(r, "10.0.0.2")
		fail := func(what string, got any) {
			t.Fatalf("seed %d: %s: %s\nbefore %s, own %v", seed, what, text(got), text(before), o)
		}
		change := splitdns.Register(o, before)
		after := splitdns.Apply(before, change)
		if again := splitdns.Register(o, after); !again.None() {
			fail("a second registration changes", again.Lists)
		}
		if got := foreign(after, o); !reflect.DeepEqual(got, foreign(before, o)) {
			fail("others' nameservers changed", got)
		}
		for _, d := range change.Domains() {
			if len(change.Lists[d]) != len(before[d])+1 {
				fail("a list grew by more than the own address", change.Lists)
			}
		}
		turned := splitdns.Own{Nameserver: o.Nameserver, Domains: slices.Clone(o.Domains)}
		slices.Reverse(turned.Domains)
		if got := splitdns.Register(turned, before); !reflect.DeepEqual(got, change) {
			fail("depends on the order of domains", got.Lists)
		}
		removed := splitdns.Apply(after, splitdns.Remove(o.Nameserver, after))
		if !reflect.DeepEqual(removed, before) {
			fail("a removal does not revert", removed)
		}
	}
}

// TestConvergence has routers with different resolvers, and an administrator, read and write in
// random order. A write from an old reading can lose addresses; once the administrator stops,
// one registration of each router after the other restores them.
func TestConvergence(t *testing.T) {
	for seed := range uint64(1000) {
		r := rand.New(rand.NewPCG(seed, 2))
		table := world(r)
		var routers []splitdns.Own
		for i := range 2 + r.IntN(2) {
			routers = append(routers, router(r, fmt.Sprintf("10.%d.0.2", i)))
		}
		read := make([]splitdns.Table, len(routers))
		for range 20 {
			i := r.IntN(len(routers))
			switch r.IntN(3) {
			case 0:
				read[i] = maps.Clone(table)
			case 1:
				table = splitdns.Apply(table, splitdns.Register(routers[i], read[i]))
			default:
				d := domains[r.IntN(len(domains))]
				table = splitdns.Apply(table, splitdns.Change{Lists: splitdns.Table{d: world(r)[d]}})
			}
		}
		theirs := foreign(table, routers...)
		for _, i := range r.Perm(len(routers)) {
			table = splitdns.Apply(table, splitdns.Register(routers[i], table))
		}
		for _, o := range routers {
			if c := splitdns.Register(o, table); !c.None() {
				t.Fatalf("seed %d: %v is not settled: %s", seed, o, text(c.Lists))
			}
		}
		if got := foreign(table, routers...); !reflect.DeepEqual(got, theirs) {
			t.Fatalf("seed %d: others' nameservers changed: %s", seed, text(got))
		}
	}
}

func FuzzRegister(f *testing.F) {
	f.Add([]byte(`{"a":["10.0.0.2",{"address":"10.9.0.2"}],"A.":[null]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var now splitdns.Table
		if json.Unmarshal(b, &now) != nil {
			t.Skip()
		}
		o := own("10.0.0.2", "a", "b.example")
		after := splitdns.Apply(now, splitdns.Register(o, now))
		if c := splitdns.Register(o, after); !c.None() {
			t.Errorf("a second registration changes %s", text(c.Lists))
		}
		if got, want := text(foreign(after, o)), text(foreign(now, o)); got != want {
			t.Errorf("others: got %s, want %s", got, want)
		}
	})
}
