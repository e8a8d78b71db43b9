package dns

import (
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// overlapping starts a server for a VPC with the site 7 and the route 10.0.0.0/16.
func overlapping(t *testing.T, r *resolver) *Server {
	t.Helper()
	site := uint32(7)
	s := start(t, r, func(cfg *Config) { cfg.Site = &site })
	s.SetRoutes([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("2001:db8::/56")})
	return s
}

// TestVia: with a site, clients get 4via6 addresses for those inside the routes, and all else unchanged.
func TestVia(t *testing.T) {
	bubble(t, func(t *testing.T) {
		zone := []string{
			soa,
			`in.example.com. 60 IN A 10.0.3.4`,
			`out.example.com. 60 IN A 10.1.3.4`,
			`both.example.com. 60 IN A 10.0.3.4`,
			`both.example.com. 50 IN A 10.1.3.4`,
			`dual.example.com. 60 IN A 10.0.3.4`,
			`dual.example.com. 50 IN AAAA 2001:db8::4`,
			`six.example.com. 60 IN AAAA 2001:db8::6`,
			`alias.example.com. 40 IN CNAME in.example.com.`,
			`far.example.com. 40 IN CNAME alias.example.com.`,
			`srv.example.com. 60 IN SRV 0 0 443 in.example.com.`,
			`svc.example.com. 60 IN HTTPS 1 . mandatory=ipv4hint alpn=h2 ipv4hint=10.0.3.4`,
			`mix.example.com. 60 IN SVCB 1 . ipv4hint=10.0.3.4,10.1.3.4 ipv6hint=2001:db8::6`,
			`none.example.com. 60 IN HTTPS 1 . ipv4hint=10.1.3.4`,
			`4.3.0.10.in-addr.arpa. 60 IN PTR ip-10-0-3-4.ec2.internal.`,
			`4.3.1.10.in-addr.arpa. 60 IN PTR ip-10-1-3-4.ec2.internal.`,
			`5.3.0.10.in-addr.arpa. 60 IN CNAME 5.sub.3.0.10.in-addr.arpa.`,
			`5.sub.3.0.10.in-addr.arpa. 60 IN PTR five.example.com.`,
		}
		const negative = `; example.com. 60 SOA ns.example.com. host\.master.example.com. 1 7200 900 1209600 60`
		reverse := func(site byte, a string) string {
			v4 := netip.MustParseAddr(a).As4()
			name, err := dns.ReverseAddr(netip.AddrFrom16([16]byte{0xfd, 0x7a, 0x11, 0x5c, 0xa1, 0xe0, 0x0b, 0x1a, 0, 0, 0, site, v4[0], v4[1], v4[2], v4[3]}).String())
			if err != nil {
				t.Fatal(err)
			}
			return name
		}
		in, other, outside, fifth, unknown := reverse(7, "10.0.3.4"), reverse(8, "10.0.3.4"), reverse(7, "10.1.3.4"), reverse(7, "10.0.3.5"), reverse(7, "10.0.3.6")
		for _, c := range []struct {
			name, qtype, want string
			asked             []string
		}{
			{"in.example.com", "A", "NOERROR", []string{"udp A in.example.com."}},
			{"in.example.com", "AAAA", "NOERROR; in.example.com. 60 AAAA fd7a:115c:a1e0:b1a:0:7:a00:304", []string{"udp A in.example.com.", "udp AAAA in.example.com."}},
			{"in.example.com", "TXT", "NOERROR" + negative, nil},
			{"out.example.com", "A", "NOERROR; out.example.com. 60 A 10.1.3.4", nil},
			{"out.example.com", "AAAA", "NOERROR" + negative, nil},
			{"both.example.com", "A", "NOERROR; both.example.com. 50 A 10.1.3.4", nil},
			{"both.example.com", "AAAA", "NOERROR; both.example.com. 60 AAAA fd7a:115c:a1e0:b1a:0:7:a00:304", nil},
			{"dual.example.com", "A", "NOERROR", nil},
			{"dual.example.com", "AAAA", "NOERROR; dual.example.com. 50 AAAA 2001:db8::4; dual.example.com. 60 AAAA fd7a:115c:a1e0:b1a:0:7:a00:304", nil},
			{"six.example.com", "A", "NOERROR" + negative, nil},
			{"six.example.com", "AAAA", "NOERROR; six.example.com. 60 AAAA 2001:db8::6", nil},
			{"far.example.com", "A", "NOERROR; far.example.com. 40 CNAME alias.example.com.; alias.example.com. 40 CNAME in.example.com.", nil},
			{"far.example.com", "AAAA", "NOERROR; far.example.com. 40 CNAME alias.example.com.; alias.example.com. 40 CNAME in.example.com.; in.example.com. 60 AAAA fd7a:115c:a1e0:b1a:0:7:a00:304", nil},
			{"missing.example.com", "A", "NXDOMAIN" + negative, nil},
			{"missing.example.com", "AAAA", "NXDOMAIN" + negative, nil},
			{"srv.example.com", "SRV", "NOERROR; srv.example.com. 60 SRV 0 0 443 in.example.com.", nil},
			{"svc.example.com", "HTTPS", `NOERROR; svc.example.com. 60 HTTPS 1 . mandatory="ipv6hint" alpn="h2" ipv6hint="fd7a:115c:a1e0:b1a:0:7:a00:304"`, nil},
			{"mix.example.com", "SVCB", `NOERROR; mix.example.com. 60 SVCB 1 . ipv4hint="10.1.3.4" ipv6hint="2001:db8::6,fd7a:115c:a1e0:b1a:0:7:a00:304"`, nil},
			{"none.example.com", "HTTPS", `NOERROR; none.example.com. 60 HTTPS 1 . ipv4hint="10.1.3.4"`, nil},
			{in, "PTR", "NOERROR; " + in + " 60 PTR ip-10-0-3-4.ec2.internal.", []string{"udp PTR 4.3.0.10.in-addr.arpa."}},
			{fifth, "PTR", "NOERROR; " + fifth + " 60 CNAME 5.sub.3.0.10.in-addr.arpa.; 5.sub.3.0.10.in-addr.arpa. 60 PTR five.example.com.", nil},
			{unknown, "PTR", "NXDOMAIN", nil},
			{other, "PTR", "NXDOMAIN" + negative, []string{"udp PTR " + other}},
			{outside, "PTR", "NXDOMAIN" + negative, []string{"udp PTR " + outside}},
		} {
			r := &resolver{respond: records(zone...)}
			s := overlapping(t, r)
			expect(t, ask(t, s, alice, c.name, c.qtype), c.want)
			if c.asked != nil {
				expectAsked(t, r, c.asked...)
			}
			r.seen()
			expect(t, ask(t, s, alice, c.name, c.qtype), c.want)
			expectAsked(t, r)
		}
	})
}

// TestViaAdditional: additional records of an answer are mapped, too.
func TestViaAdditional(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := &resolver{respond: func(_ string, q *dns.Msg) []response {
			m := lookUp(q, []string{`srv.example.com. 60 IN SRV 0 0 443 in.example.com.`})
			m.AuthenticatedData = true
			m.Extra = append(m.Extra, parse(`in.example.com. 60 IN A 10.0.3.4`), parse(`in.example.com. 60 IN A 10.1.3.4`))
			return []response{{msg: pack(m)}}
		}}
		m := ask(t, overlapping(t, r), alice, "srv.example.com", "SRV", func(q *dns.Msg) { q.AuthenticatedData = true })
		expect(t, m, "NOERROR; srv.example.com. 60 SRV 0 0 443 in.example.com.; in.example.com. 60 AAAA fd7a:115c:a1e0:b1a:0:7:a00:304; in.example.com. 60 A 10.1.3.4")
		if m.AuthenticatedData {
			t.Error("a changed answer is still authenticated")
		}
		s := start(t, r, nil)
		ask(t, s, bob, "srv.example.com", "SRV")
		if m := ask(t, s, alice, "srv.example.com", "SRV", func(q *dns.Msg) { q.AuthenticatedData = true }); !m.AuthenticatedData {
			t.Error("an unchanged answer is no longer authenticated")
		}
		if m := ask(t, s, bob, "srv.example.com", "SRV"); m.AuthenticatedData {
			t.Error("a client that did not ask for AD got it")
		}
	})
}

// TestViaSignatures: a changed answer is neither authenticated nor has signatures of removed records.
func TestViaSignatures(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const sig = ` RRSIG A 8 3 60 20300101000000 20200101000000 1 example.com. AAAA`
		r := &resolver{respond: func(_ string, q *dns.Msg) []response {
			zone := []string{`in.example.com. 60 IN A 10.0.3.4`, `in.example.com. 60 IN AAAA 2001:db8::6`}
			m := lookUp(q, zone)
			m.AuthenticatedData = true
			if q.Question[0].Qtype == dns.TypeA {
				m.Answer = append(m.Answer, parse(`in.example.com. 60 IN`+sig))
			}
			return []response{{msg: pack(m)}}
		}}
		secure := func(q *dns.Msg) { q.SetEdns0(1232, true) }
		s := overlapping(t, r)
		for qtype, want := range map[string]string{
			"A":    "NOERROR",
			"AAAA": "NOERROR; in.example.com. 60 AAAA 2001:db8::6; in.example.com. 60 AAAA fd7a:115c:a1e0:b1a:0:7:a00:304",
		} {
			m := ask(t, s, alice, "in.example.com", qtype, secure)
			if expect(t, m, want); m.AuthenticatedData {
				t.Errorf("the changed answer to %s is authenticated", qtype)
			}
		}
		m := ask(t, start(t, r, nil), alice, "in.example.com", "A", secure)
		if expect(t, m, "NOERROR; in.example.com. 60 A 10.0.3.4; in.example.com. 60"+sig); !m.AuthenticatedData {
			t.Error("the unchanged answer is not authenticated")
		}
	})
}

// TestViaForValidators: a client that validates signatures itself gets the signed records.
func TestViaForValidators(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := &resolver{respond: records(`in.example.com. 60 IN A 10.0.3.4`, soa)}
		s := overlapping(t, r)
		validator := func(q *dns.Msg) {
			q.CheckingDisabled = true
			q.SetEdns0(1232, true)
		}
		expect(t, ask(t, s, alice, "in.example.com", "A", validator), "NOERROR; in.example.com. 60 A 10.0.3.4")
		expectAsked(t, r, "udp A in.example.com.")
	})
}

// TestViaFailures: of the two questions for AAAA records, one may fail.
func TestViaFailures(t *testing.T) {
	bubble(t, func(t *testing.T) {
		only := func(qtype uint16, respond func(string, *dns.Msg) []response) func(string, *dns.Msg) []response {
			return func(network string, q *dns.Msg) []response {
				if q.Question[0].Qtype == qtype {
					return respond(network, q)
				}
				return rcode(dns.RcodeServerFailure)(network, q)
			}
		}
		zone := records(`in.example.com. 60 IN A 10.0.3.4`, `in.example.com. 60 IN AAAA 2001:db8::6`, `four.example.com. 60 IN A 10.0.3.4`, soa)
		for _, c := range []struct {
			what, name string
			respond    func(string, *dns.Msg) []response
			want       string
		}{
			{"AAAA fails", "in.example.com", only(dns.TypeA, zone), "NOERROR; in.example.com. 60 AAAA fd7a:115c:a1e0:b1a:0:7:a00:304"},
			{"A fails", "in.example.com", only(dns.TypeAAAA, zone), "NOERROR; in.example.com. 60 AAAA 2001:db8::6"},
			{"A fails, and there is no other", "four.example.com", only(dns.TypeAAAA, zone), "SERVFAIL"},
			{"both fail", "in.example.com", rcode(dns.RcodeServerFailure), "SERVFAIL"},
		} {
			r := &resolver{respond: c.respond}
			s := overlapping(t, r)
			if m := ask(t, s, alice, c.name, "AAAA"); text(m) != c.want {
				t.Errorf("%s: the answer is %s, want %s", c.what, text(m), c.want)
			}
		}
	})
}

// TestViaLifetimes: a withheld answer is asked for again when the addresses may have changed.
func TestViaLifetimes(t *testing.T) {
	for _, c := range []struct {
		qtype string
		zone  []string
		want  time.Duration
	}{
		{"A", []string{`a.example.com. 20 IN A 10.0.3.4`, soa}, 20 * time.Second},
		{"A", []string{`a.example.com. 86400 IN A 10.0.3.4`, soa}, time.Hour},
		{"AAAA", []string{`a.example.com. 20 IN A 10.0.3.4`, soa}, 20 * time.Second},
		{"AAAA", []string{`a.example.com. 86400 IN A 10.0.3.4`, soa}, time.Minute}, // for that of no AAAA
		{"AAAA", []string{`a.example.com. 20 IN A 10.1.3.4`, soa}, 20 * time.Second},
		{"AAAA", []string{`a.example.com. 20 IN A 10.0.3.4`, `a.example.com. 10 IN AAAA 2001:db8::6`}, 10 * time.Second},
		{"AAAA", []string{`a.example.com. 10 IN A 10.0.3.4`, `a.example.com. 20 IN AAAA 2001:db8::6`}, 10 * time.Second},
	} {
		bubble(t, func(t *testing.T) {
			r := &resolver{respond: records(c.zone...)}
			s := overlapping(t, r)
			ask(t, s, alice, "a.example.com", c.qtype)
			time.Sleep(c.want - time.Second)
			r.seen()
			if ask(t, s, alice, "a.example.com", c.qtype); len(r.asked) != 0 {
				t.Errorf("%s of %q: asked again before %v: %q", c.qtype, c.zone, c.want, r.seen())
			}
			time.Sleep(time.Second)
			if ask(t, s, alice, "a.example.com", c.qtype); len(r.seen()) == 0 {
				t.Errorf("%s of %q: not asked again after %v", c.qtype, c.zone, c.want)
			}
		})
	}
}

// TestViaSharesQuestions: a client's questions for A and AAAA records ask for A once.
func TestViaSharesQuestions(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := &resolver{respond: after(100*time.Millisecond, records(`in.example.com. 60 IN A 10.0.3.4`, soa))}
		s := overlapping(t, r)
		done := make(chan []byte, 2)
		for _, qtype := range []string{"A", "AAAA"} {
			s.Handle(alice, false, pack(newQuery("in.example.com", qtype)), func(b []byte) { done <- b })
		}
		<-done
		<-done
		expectAsked(t, r, "udp A in.example.com.", "udp AAAA in.example.com.")
	})
}

// TestSetRoutes: answers of other routes are not used, also if they were in flight.
func TestSetRoutes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := &resolver{respond: records(`in.example.com. 60 IN A 10.0.3.4`, soa)}
		s := overlapping(t, r)
		expect(t, ask(t, s, alice, "in.example.com", "A"), "NOERROR")
		s.SetRoutes([]netip.Prefix{netip.MustParsePrefix("2001:db8::/56"), netip.MustParsePrefix("10.0.0.0/16")}) // the same
		r.seen()
		ask(t, s, alice, "in.example.com", "A")
		expectAsked(t, r)
		time.Sleep(2 * time.Minute)
		r.set(after(3*time.Second, records(`in.example.com. 60 IN A 10.0.3.4`, soa)))
		go func() {
			time.Sleep(time.Second)
			s.SetRoutes(nil) // before the stale answer would be used
		}()
		begun := time.Now()
		ask(t, s, alice, "in.example.com", "A")
		if took := time.Since(begun); took != 3*time.Second {
			t.Errorf("an answer of other routes was used after %v", took)
		}
		r.set(records(`in.example.com. 60 IN A 10.0.3.4`, soa))
		expect(t, ask(t, s, alice, "in.example.com", "A"), "NOERROR; in.example.com. 60 A 10.0.3.4")
		r.set(after(100*time.Millisecond, records(`late.example.com. 60 IN A 10.0.3.4`, soa)))
		done := make(chan []byte, 1)
		s.Handle(alice, false, pack(newQuery("late.example.com", "A")), func(b []byte) { done <- b })
		time.Sleep(50 * time.Millisecond)
		s.SetRoutes([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")})
		expect(t, ask(t, s, alice, "late.example.com", "A"), "NOERROR")
		<-done
		expect(t, ask(t, s, alice, "late.example.com", "A"), "NOERROR")
	})
}
