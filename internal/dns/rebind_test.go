package dns

import (
	"net/netip"
	"testing"
	"time"
)

// TestRebindGuard: names outside the private zones do not lead clients to themselves, to other nodes or
// to the router.
func TestRebindGuard(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const blocked = "REFUSED; EDE Blocked"
		listener := netip.MustParseAddr("10.0.9.9")
		for _, c := range []struct{ record, want string }{
			{"A 127.0.0.1", blocked},
			{"A 0.0.0.0", blocked},
			{"A 100.64.0.9", blocked},
			{"A 169.254.169.254", blocked},
			{"A 10.0.9.9", blocked},
			{"AAAA ::1", blocked},
			{"AAAA ::", blocked},
			{"AAAA fe80::1", blocked},
			{"AAAA fd7a:115c:a1e0::1", blocked},
			{"AAAA ::ffff:127.0.0.1", blocked},
			{"HTTPS 1 . ipv4hint=127.0.0.1", blocked},
			{"SVCB 1 . ipv6hint=::1", blocked},
			{"A 10.0.3.4", "NOERROR; name.public.example. 60 A 10.0.3.4"},
			{"A 192.168.0.1", "NOERROR; name.public.example. 60 A 192.168.0.1"},
			{"A 100.100.1.1", "NOERROR; name.public.example. 60 A 100.100.1.1"}, // inside a route
			{"A 203.0.113.1", "NOERROR; name.public.example. 60 A 203.0.113.1"},
			{"AAAA fd12::1", "NOERROR; name.public.example. 60 AAAA fd12::1"},
		} {
			r := &resolver{respond: records(
				"name.public.example. 60 IN "+c.record, "name.private.example. 60 IN "+c.record, "alias.public.example. 60 IN CNAME name.public.example.")}
			guarded := start(t, r, func(cfg *Config) {
				cfg.RebindGuard = true
				cfg.Listener = func(a netip.Addr) bool { return a == listener }
			})
			guarded.SetRoutes([]netip.Prefix{netip.MustParsePrefix("100.100.0.0/16")})
			if err := guarded.SetZones([]string{"Private.example."}); err != nil {
				t.Fatal(err)
			}
			qtype := parse(". 1 IN " + c.record).Header().Rrtype
			get := func(s *Server, name string) string {
				q := newQuery(name, "A", edns)
				q.Question[0].Qtype = qtype
				return answerText(t, s, q)
			}
			for range 2 { // the second time from the cache
				if got := get(guarded, "name.public.example"); got != c.want {
					t.Errorf("%s: the answer is %s, want %s", c.record, got, c.want)
				}
				if got := get(guarded, "alias.public.example"); (got == blocked) != (c.want == blocked) {
					t.Errorf("%s: the answer to the alias is %s", c.record, got)
				}
			}
			if got := len(r.seen()); got != 2 {
				t.Errorf("%s: the resolver was asked %d questions", c.record, got)
			}
			if got := get(guarded, "name.private.example"); got == blocked {
				t.Errorf("%s: refused inside a private zone", c.record)
			}
			if got := get(start(t, r, nil), "name.public.example"); got == blocked {
				t.Errorf("%s: refused without the guard", c.record)
			}
		}
	})
}

// TestRebindWhileStale: a refusal is not a failure, after which the stale answer would be used.
func TestRebindWhileStale(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := &resolver{respond: records(`a.public.example. 60 IN A 203.0.113.1`)}
		s := start(t, r, func(cfg *Config) { cfg.RebindGuard = true })
		ask(t, s, alice, "a.public.example", "A")
		time.Sleep(2 * time.Minute)
		r.set(records(`a.public.example. 60 IN A 127.0.0.1`))
		for range 2 {
			expect(t, ask(t, s, alice, "a.public.example", "A"), "REFUSED")
		}
	})
}

// TestZones: a zone contains itself and the names below it, and the smallest one counts.
func TestZones(t *testing.T) {
	z, err := parseZones([]string{"example.com", "sub.EXAMPLE.com.", "example.com", "10.in-addr.arpa"})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"example.com.": "example.com", "a.b.example.com.": "example.com", "sub.example.com.": "sub.example.com", "a.sub.example.com.": "sub.example.com",
		"badexample.com.": "other", `a\.example.com.`: "other", "com.": "other", ".": "other", "1.0.10.in-addr.arpa.": "10.in-addr.arpa",
	} {
		if got := z.find(name).label; got != want {
			t.Errorf("%s is in %s, want %s", name, got, want)
		}
	}
	z, err = parseZones([]string{"good.example", "", "a..b", "other", "x y", "-"})
	if want := `setting the private zones: "", "a..b", "other", "x y": not a domain name; write names such as internal.example.com`; err == nil || err.Error() != want {
		t.Errorf("the error is %v, want %s", err, want)
	}
	if !z.find("good.example.").private {
		t.Error("the valid zone is not set")
	}
}
