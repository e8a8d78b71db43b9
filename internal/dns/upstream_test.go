package dns

import (
	"bytes"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestUnreliableResolver: each way in which the resolver can misbehave, and the answer of a question that
// no cache has.
func TestUnreliableResolver(t *testing.T) {
	const good = "NOERROR; www.example.com. 60 A 10.0.0.1"
	right := records(www)
	// wrong sends a changed answer, and the right one a second later.
	wrong := func(change func(m *dns.Msg)) func(string, *dns.Msg) []response {
		return func(_ string, q *dns.Msg) []response {
			m := lookUp(q, []string{www})
			change(m)
			return []response{{msg: pack(m)}, {after: 300 * time.Millisecond, msg: pack(lookUp(q, []string{www}))}}
		}
	}
	raw := func(b ...byte) func(string, *dns.Msg) []response {
		return func(_ string, q *dns.Msg) []response {
			return []response{{msg: b}, {after: 300 * time.Millisecond, msg: pack(lookUp(q, []string{www}))}}
		}
	}
	nth := func(n int32, then func(string, *dns.Msg) []response) func(string, *dns.Msg) []response {
		var asked atomic.Int32
		return func(network string, q *dns.Msg) []response {
			if asked.Add(1) < n {
				return nil
			}
			return then(network, q)
		}
	}
	for _, c := range []struct {
		what    string
		respond func(string, *dns.Msg) []response
		want    string
		took    time.Duration
	}{
		{"right", right, good, 0},
		{"slow", after(350*time.Millisecond, right), good, 350 * time.Millisecond},
		{"slower than the first try", after(700*time.Millisecond, right), good, 700 * time.Millisecond},
		{"slow as a resolver far away", after(4*time.Second, right), good, 4 * time.Second},
		{"one packet lost", nth(2, right), good, 400 * time.Millisecond},
		{"UDP lost", func(network string, q *dns.Msg) []response {
			if network == "udp" {
				return nil
			}
			return right(network, q)
		}, good, 1200 * time.Millisecond},
		{"three packets lost", nth(4, right), good, 2800 * time.Millisecond},
		{"silent", silent, "SERVFAIL; EDE Network Error", askWithin},
		{"another ID", wrong(func(m *dns.Msg) { m.Id++ }), good, 300 * time.Millisecond},
		{"another name", wrong(func(m *dns.Msg) { m.Question[0].Name = "evil.example.com." }), good, 300 * time.Millisecond},
		{"another type", wrong(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA }), good, 300 * time.Millisecond},
		{"another class", wrong(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }), good, 300 * time.Millisecond},
		{"no question", wrong(func(m *dns.Msg) { m.Question = nil }), good, 300 * time.Millisecond},
		{"a query", wrong(func(m *dns.Msg) { m.Response = false }), good, 300 * time.Millisecond},
		{"a NOTIFY", wrong(func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }), good, 300 * time.Millisecond},
		{"garbage", raw(1, 2, 3), good, 300 * time.Millisecond},
		{"nothing", raw(), good, 300 * time.Millisecond},
		{"fewer records than announced", func(_ string, q *dns.Msg) []response {
			cut := pack(lookUp(q, []string{www}))
			cut[7] = 2
			return []response{{msg: cut}, {after: 300 * time.Millisecond, msg: pack(lookUp(q, []string{www}))}}
		}, good, 300 * time.Millisecond},
		{"a flood of garbage", func(network string, q *dns.Msg) []response {
			if network == "udp" {
				out := make([]response, 100)
				for i := range out {
					out[i].msg = []byte("garbage")
				}
				return out
			}
			return right(network, q)
		}, good, 1200 * time.Millisecond},
		{"truncated", func(network string, q *dns.Msg) []response {
			m := lookUp(q, []string{www})
			if m.Truncated = network == "udp"; m.Truncated {
				m.Answer = nil
			}
			return []response{{msg: pack(m)}}
		}, good, 0},
		{"truncated in a record", func(network string, q *dns.Msg) []response {
			m := lookUp(q, []string{www})
			if m.Truncated = network == "udp"; !m.Truncated {
				return []response{{msg: pack(m)}}
			}
			b := pack(m)
			return []response{{msg: b[:len(b)-13]}}
		}, good, 0},
		{"always truncated", func(_ string, q *dns.Msg) []response {
			m := lookUp(q, []string{www})
			m.Truncated = true
			return []response{{msg: pack(m)}}
		}, "SERVFAIL; EDE Network Error", askWithin},
		{"SERVFAIL", rcode(dns.RcodeServerFailure), "SERVFAIL", 0},
		{"REFUSED", rcode(dns.RcodeRefused), "REFUSED", 0},
		{"SERVFAIL with a reason", func(_ string, q *dns.Msg) []response {
			m := new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)
			m.SetEdns0(1232, false)
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeDNSBogus, ExtraText: strings.Repeat("x", 500)}}
			return []response{{msg: pack(m)}}
		}, "SERVFAIL; EDE DNSSEC Bogus", 0},
		{"a record without data", func(_ string, q *dns.Msg) []response {
			m := new(dns.Msg).SetRcode(q, dns.RcodeNameError)
			m.Extra, m.Ns = nil, []dns.RR{parse(soa)}
			b := pack(m)
			length := bytes.Index(b, []byte{0, 0, 3, 0x84}) + 4 // behind the TTL of 900 s
			b = append(b[:length], 0, 0)
			return []response{{msg: b}}
		}, "SERVFAIL; EDE Invalid Data", 0},
		{"another spelling", func(_ string, q *dns.Msg) []response {
			q.Question[0].Name = "WWW.EXAMPLE.COM."
			return []response{{msg: pack(lookUp(q, []string{www}))}}
		}, good, 0},
	} {
		t.Run(c.what, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := &resolver{respond: c.respond}
				s := start(t, r, nil)
				begun := time.Now()
				m := ask(t, s, alice, "www.example.com", "A", edns)
				if took := time.Since(begun); took != c.took {
					t.Errorf("the answer took %v, want %v", took, c.took)
				}
				if m.Question[0].Name = "www.example.com."; strings.Replace(text(m), "WWW.EXAMPLE.COM", "www.example.com", 1) != c.want {
					t.Errorf("the answer is %s, want %s", text(m), c.want)
				}
				if asked := r.seen(); len(asked) > len(tries)+1 {
					t.Errorf("the resolver was asked %q", asked)
				}
			})
		})
	}
}

// TestRestartingResolver: connections are refused for a while.
func TestRestartingResolver(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := &resolver{respond: records(www), refuse: true}
		s := start(t, r, nil)
		time.AfterFunc(time.Second, func() { r.setRefuse(false) })
		begun := time.Now()
		expect(t, ask(t, s, alice, "www.example.com", "A"), "NOERROR; www.example.com. 60 A 10.0.0.1")
		if took := time.Since(begun); took != 1200*time.Millisecond {
			t.Errorf("the answer took %v", took)
		}
		r.setRefuse(true)
		begun = time.Now()
		expect(t, ask(t, s, alice, "other.example.com", "A", edns), "SERVFAIL; EDE Network Error")
		if took := time.Since(begun); took != 2800*time.Millisecond {
			t.Errorf("the failure took %v", took)
		}
	})
}

// TestOutageIsLogged: once when it begins, and once when it ends.
func TestOutageIsLogged(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var log bytes.Buffer
		r := &resolver{refuse: true}
		s := start(t, r, func(cfg *Config) { cfg.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		for range 5 {
			ask(t, s, alice, "www.example.com", "A")
			time.Sleep(failureTTL)
		}
		if n := strings.Count(log.String(), "level=WARN"); n != 1 || !strings.Contains(log.String(), "connection refused") {
			t.Errorf("the log of an outage is:\n%s", log.String())
		}
		if err := s.Failing(); err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("Failing returns %v", err)
		}
		r.setRefuse(false)
		r.set(records(www))
		for range 5 {
			ask(t, s, alice, "www.example.com", "A")
			time.Sleep(time.Minute)
		}
		if n := strings.Count(log.String(), "\n"); n != 2 || !strings.Contains(log.String(), "answers again") {
			t.Errorf("the log is:\n%s", log.String())
		}
		if err := s.Failing(); err != nil {
			t.Errorf("Failing returns %v", err)
		}
	})
}
