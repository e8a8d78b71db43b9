package dns

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// TestChecks: each kind of message that the resolver is not asked, and its answer.
func TestChecks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := &resolver{respond: silent}
		s := start(t, r, nil)
		raw := func(change func(b []byte) []byte) func(q *dns.Msg) []byte {
			return func(q *dns.Msg) []byte { return change(pack(q)) }
		}
		msg := func(change func(q *dns.Msg)) func(q *dns.Msg) []byte {
			return func(q *dns.Msg) []byte {
				change(q)
				return pack(q)
			}
		}
		for _, c := range []struct {
			what string
			msg  func(q *dns.Msg) []byte
			want string // "" for none
		}{
			{"nothing", raw(func([]byte) []byte { return nil }), ""},
			{"half a header", raw(func(b []byte) []byte { return b[:11] }), ""},
			{"a response", msg(func(q *dns.Msg) { q.Response = true }), ""},
			{"a header", raw(func(b []byte) []byte { return b[:12] }), "FORMERR"},
			{"half a question", raw(func(b []byte) []byte { return b[:15] }), "FORMERR"},
			{"a name only", raw(func(b []byte) []byte { return b[:len(b)-4] }), "FORMERR"},
			{"a name and a type", raw(func(b []byte) []byte { return b[:len(b)-2] }), "FORMERR"},
			{"no question", msg(func(q *dns.Msg) { q.Question = nil }), "FORMERR"},
			{"two questions", msg(func(q *dns.Msg) { q.Question = append(q.Question, q.Question[0]) }), "FORMERR"},
			{"an answer", msg(func(q *dns.Msg) { q.Answer = []dns.RR{parse("a. 1 IN A 1.2.3.4")} }), "FORMERR"},
			{"an authority", msg(func(q *dns.Msg) { q.Ns = []dns.RR{parse(soa)} }), "FORMERR"},
			{"another record", msg(func(q *dns.Msg) { q.Extra = []dns.RR{parse("a. 1 IN A 1.2.3.4")} }), "FORMERR"},
			{"fewer records than announced", raw(func(b []byte) []byte { b[11] = 1; return b }), "FORMERR"},
			{"two OPT records", msg(func(q *dns.Msg) { edns(q); q.Extra = append(q.Extra, q.Extra[0]) }), "FORMERR"},
			{"an OPT record of a name", msg(func(q *dns.Msg) { edns(q); q.Extra[0].Header().Name = "a." }), "FORMERR"},
			{"a name that points into the header", raw(func(b []byte) []byte {
				return append(append(b[:12:12], 0xc0, 4), 0, 1, 0, 1)
			}), "FORMERR"},
			{"a name that points to itself", raw(func(b []byte) []byte {
				return append(append(b[:12:12], 0xc0, 12), 0, 1, 0, 1)
			}), "FORMERR"},
			{"a NOTIFY", msg(func(q *dns.Msg) { q.Opcode = dns.OpcodeNotify }), "NOTIMP"},
			{"an UPDATE", msg(func(q *dns.Msg) { q.Opcode = dns.OpcodeUpdate }), "NOTIMP"},
			{"a later EDNS", msg(func(q *dns.Msg) { edns(q); q.IsEdns0().SetVersion(1) }), "BADVERS"},
			{"AXFR", msg(func(q *dns.Msg) { q.Question[0].Qtype = dns.TypeAXFR }), "REFUSED"},
			{"AXFR with EDNS", msg(func(q *dns.Msg) { q.Question[0].Qtype = dns.TypeAXFR; edns(q) }), "REFUSED; EDE Not Supported"},
			{"IXFR", msg(func(q *dns.Msg) { q.Question[0].Qtype = dns.TypeIXFR; q.Ns = []dns.RR{parse(soa)} }), "REFUSED"},
			{"ANY", msg(func(q *dns.Msg) { q.Question[0].Qtype = dns.TypeANY }), `NOERROR; example.com. 86400 HINFO "RFC8482" ""`},
			{"MAILB", msg(func(q *dns.Msg) { q.Question[0].Qtype = dns.TypeMAILB }), "NOTIMP"},
			{"the type 0", msg(func(q *dns.Msg) { q.Question[0].Qtype = 0 }), "FORMERR"},
			{"OPT as the type", msg(func(q *dns.Msg) { q.Question[0].Qtype = dns.TypeOPT }), "FORMERR"},
			{"CHAOS", msg(func(q *dns.Msg) { q.Question[0].Qclass = dns.ClassCHAOS; edns(q) }), "REFUSED; EDE Not Supported"},
			{"no RD", msg(func(q *dns.Msg) { q.RecursionDesired = false; edns(q) }), "REFUSED; EDE Not Authoritative"},
		} {
			for _, tcp := range []bool{false, true} {
				in := c.msg(newQuery("example.com", "A"))
				got := s.Serve(t.Context(), alice, tcp, in)
				if c.want == "" || got == nil {
					if c.want != "" || got != nil {
						t.Errorf("%s: the answer is %x, want %q", c.what, got, c.want)
					}
					continue
				}
				m := new(dns.Msg)
				if err := m.Unpack(got); err != nil {
					t.Errorf("%s: %v", c.what, err)
				} else if text(m) != c.want || m.Id != binary.BigEndian.Uint16(in) || !m.Response {
					t.Errorf("%s: the answer is %q (%v), want %q", c.what, text(m), m.MsgHdr, c.want)
				}
			}
		}
		expectAsked(t, r)
	})
}

// TestQuestionToResolver: a question to the resolver has a fresh ID and none of the client's options.
func TestQuestionToResolver(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := &resolver{respond: records(`www.example.com. 0 IN A 10.0.0.1`)}
		s := start(t, r, nil)
		ids := map[uint16]bool{}
		for range 20 {
			ask(t, s, alice, "WWW.example.com", "A", func(q *dns.Msg) {
				q.Id, q.CheckingDisabled = 7, true
				q.SetEdns0(4096, true)
				q.IsEdns0().Option = []dns.EDNS0{
					&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: []byte{10, 1, 2, 0}},
					&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "24a5ac4624a5ac46"},
					&dns.EDNS0_LOCAL{Code: 65001, Data: []byte("private")},
				}
			})
		}
		for _, q := range r.queries {
			ids[q.Id] = true
			opt := q.IsEdns0()
			if !q.RecursionDesired || !q.CheckingDisabled || opt == nil || !opt.Do() || opt.UDPSize() != 1232 || len(opt.Option) != 0 || q.Question[0].Name != "www.example.com." {
				t.Fatalf("the resolver was asked\n%v", q)
			}
		}
		if len(ids) < 15 {
			t.Errorf("20 questions had %d IDs", len(ids))
		}
	})
}

// TestAnswerForClient: each client has its own ID, spelling, flags and size.
func TestAnswerForClient(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var big []string
		for i := range 60 {
			big = append(big, fmt.Sprintf(`big.example.com. 60 IN A 10.0.1.%d`, i))
		}
		for i := range 200 {
			big = append(big, fmt.Sprintf(`huge.example.com. 60 IN A 10.0.1.%d`, i))
		}
		r := &resolver{respond: records(append(big, `www.example.com. 60 IN A 10.0.0.1`)...)}
		s := start(t, r, nil)
		m := ask(t, s, alice, "wWw.ExAmple.com", "A")
		if expect(t, m, "NOERROR; wWw.ExAmple.com. 60 A 10.0.0.1"); !m.RecursionAvailable || !m.RecursionDesired || m.Authoritative || m.IsEdns0() != nil {
			t.Errorf("the answer has the header %v", m.MsgHdr)
		}
		m = ask(t, s, bob, "www.example.com", "A", func(q *dns.Msg) { q.SetEdns0(100, false) })
		if opt := m.IsEdns0(); opt == nil || opt.UDPSize() != 1232 || opt.Do() {
			t.Errorf("the answer has the OPT record %v", m.IsEdns0())
		}
		expectAsked(t, r, "udp A www.example.com.")
		for _, c := range []struct {
			name       string
			answers    int
			size, want int
			tcp        bool
			truncated  bool
		}{
			{"big.example.com", 60, 0, 512, false, true}, {"big.example.com", 60, 100, 512, false, true},
			{"big.example.com", 60, 1232, 1232, false, false}, {"big.example.com", 60, 65000, 1232, false, false}, {"big.example.com", 60, 0, 65535, true, false},
			{"huge.example.com", 200, 65000, 1232, false, true}, {"huge.example.com", 200, 512, 65535, true, false},
		} {
			q := newQuery(c.name, "A")
			if c.size > 0 {
				q.SetEdns0(uint16(c.size), false)
			}
			got := s.Serve(t.Context(), alice, c.tcp, pack(q))
			m := new(dns.Msg)
			if err := m.Unpack(got); err != nil || len(got) > c.want || m.Truncated != c.truncated || (len(m.Answer) == c.answers) == c.truncated {
				t.Errorf("%s, size %d, TCP %v: %d bytes with %d answers, TC %v, %v", c.name, c.size, c.tcp, len(got), len(m.Answer), m.Truncated, err)
			}
		}
	})
}

// TestReasonFits: the text of an extended error is bounded, and left out if an answer would get too long.
func TestReasonFits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		with, without := 0, 0
		for n := range 250 {
			r := &resolver{respond: func(_ string, q *dns.Msg) []response {
				m := lookUp(q, []string{`a.example.com. 60 IN TXT "` + strings.Repeat("x", n) + `"` + strings.Repeat(` "`+strings.Repeat("y", 249)+`"`, 4)})
				m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeOther, ExtraText: strings.Repeat("z", 500)}}
				return []response{{msg: pack(m)}}
			}}
			b := start(t, r, nil).Serve(t.Context(), alice, false, pack(newQuery("a.example.com", "TXT", edns)))
			m := new(dns.Msg)
			if err := m.Unpack(b); err != nil || len(b) > ednsSize {
				t.Fatalf("an answer with %d more bytes has %d, %v", n, len(b), err)
			}
			reason := m.IsEdns0().Option[0].(*dns.EDNS0_EDE).ExtraText
			switch {
			case len(reason) == maxText && !m.Truncated:
				with++
			case reason == "" && !m.Truncated:
				without++
			case len(reason) != maxText:
				t.Errorf("an answer with %d more bytes has a reason of %d", n, len(reason))
			}
		}
		if with == 0 || without != maxText {
			t.Errorf("%d answers have a reason with a text, %d without", with, without)
		}
	})
}

// TestQueryIsNotRetained: the buffer of a query may be used again at once.
func TestQueryIsNotRetained(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := &resolver{respond: after(100e6, records(`www.example.com. 60 IN A 10.0.0.1`))}
		s := start(t, r, nil)
		q := newQuery("www.example.com", "A")
		b := pack(q)
		got := make(chan []byte, 1)
		s.Handle(alice, false, b, func(a []byte) { got <- a })
		clear(b)
		m := new(dns.Msg)
		if err := m.Unpack(<-got); err != nil || m.Question[0] != q.Question[0] || len(m.Answer) != 1 {
			t.Errorf("%v, %v", m, err)
		}
	})
}
