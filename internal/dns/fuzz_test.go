package dns

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/miekg/dns"
)

// FuzzHandle sends one message as a client, to a resolver that answers with the other. Whatever both
// are, the answer is a valid one to the client's question and no longer than it can take; a message that
// is no query has none.
func FuzzHandle(f *testing.F) {
	query := pack(newQuery("www.example.com", "A"))
	answer := pack(lookUp(newQuery("www.example.com", "A", edns), []string{`www.example.com. 60 IN CNAME a\.b.example.com.`, `a\.b.example.com. 2147483648 IN A 10.0.3.4`}))
	negative := pack(lookUp(newQuery("www.example.com", "A", edns), []string{soa}))
	f.Add(query, answer)
	f.Add(query, negative)
	f.Add(query[:12], answer[:12])
	f.Add([]byte(nil), []byte(nil))
	for _, q := range []*dns.Msg{
		newQuery("www.example.com", "AAAA", edns),
		newQuery("www.example.com", "HTTPS", func(q *dns.Msg) { q.SetEdns0(65535, true) }),
		newQuery("www.example.com", "ANY"), newQuery("www.example.com", "AXFR", edns), newQuery(".", "NS"),
		newQuery(`a\.b\000\255.example.com`, "TXT"),
		newQuery("4.0.3.0.0.0.a.0.7.0.0.0.0.0.0.0.a.1.b.0.0.e.1.a.c.5.1.1.a.7.d.f.ip6.arpa", "PTR"),
	} {
		f.Add(pack(q), pack(lookUp(q, []string{
			`www.example.com. 1 IN HTTPS 1 . mandatory=ipv4hint ipv4hint=10.0.3.4 ipv6hint=::1`, `www.example.com. 1 IN AAAA fe80::1`,
			`4.3.0.10.in-addr.arpa. 60 IN PTR x.example.com.`, `. 60 IN NS a.root-servers.net.`, soa})))
	}
	// Names that point at each other, into the header, and past the end.
	for _, pointer := range [][]byte{{0xc0, 12}, {0xc0, 14, 0xc0, 12}, {0xc0, 4}, {0xff, 0xff}, {0x40, 0}, {1, 'a', 0xc0, 12}} {
		b := append(append(query[:12:12], pointer...), 0, 1, 0, 1)
		f.Add(b, b)
		bad := append(answer[:33:33], pointer...)
		f.Add(query, append(bad, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 1, 2, 3, 4))
	}
	long := append(query[:12:12], make([]byte, 300)...)
	for i := 12; i < len(long)-64; i += 64 {
		long[i] = 63
	}
	f.Add(long, long)
	for _, at := range []int{2, 3, 5, 7, 9, 11} {
		b := append([]byte(nil), query...)
		b[at] = 0xff
		c := append([]byte(nil), answer...)
		c[at] = 0xff
		f.Add(b, c)
	}
	site := uint32(7)
	f.Fuzz(func(t *testing.T, msg, upstream []byte) {
		r := &resolver{respond: func(network string, q *dns.Msg) []response {
			out := append([]byte(nil), upstream...)
			if len(out) >= 12 { // else no answer ever counts
				binary.BigEndian.PutUint16(out, q.Id)
				out[2] |= 0x80
			}
			// The tries end at once: without one that counts, the server has to give up.
			return []response{{msg: out}, {msg: pack(new(dns.Msg).SetRcode(q, dns.RcodeServerFailure))}}
		}}
		s := start(t, r, func(cfg *Config) { cfg.Site, cfg.RebindGuard = &site, true })
		s.SetRoutes([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")})
		if err := s.SetZones([]string{"example.com"}); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time from the cache
			for _, tcp := range []bool{false, true} {
				in := append([]byte(nil), msg...)
				b := s.Serve(t.Context(), alice, tcp, in)
				checkAnswer(t, msg, b, tcp)
			}
		}
		s.Close()
		if s.inFlight != 0 || s.waiting != 0 || len(s.flights) != 0 {
			t.Errorf("%d questions, %d queries, %d flights are left", s.inFlight, s.waiting, len(s.flights))
		}
	})
}

func checkAnswer(t *testing.T, msg, b []byte, tcp bool) {
	t.Helper()
	isQuery := len(msg) >= 12 && msg[2]&0x80 == 0
	if (b != nil) != isQuery {
		t.Fatalf("the answer to %x is %x", msg, b)
	}
	if b == nil {
		return
	}
	var q, m dns.Msg
	if err := m.Unpack(b); err != nil {
		t.Fatalf("the answer %x is malformed: %v", b, err)
	}
	if !m.Response || m.Id != binary.BigEndian.Uint16(msg) || m.Opcode != int(msg[2]>>3&0xf) {
		t.Fatalf("the answer to %x has the header %v", msg, m.MsgHdr)
	}
	limit := maxTCP
	if !tcp {
		limit = minUDPSize
		if m.IsEdns0() != nil {
			limit = ednsSize
		}
	}
	if len(b) > limit {
		t.Fatalf("the answer has %d bytes, more than %d", len(b), limit)
	}
	if m.Rcode == dns.RcodeFormatError || m.Rcode == dns.RcodeNotImplemented && len(m.Question) == 0 {
		if len(b) > len(msg)+11 {
			t.Fatalf("the refusal has %d bytes, the query %d", len(b), len(msg))
		}
		return
	}
	if err := q.Unpack(msg); err != nil || len(m.Question) != 1 || m.Question[0] != q.Question[0] {
		t.Fatalf("the answer to %v (%v) is %v", q, err, m)
	}
	if (m.IsEdns0() != nil) != (q.IsEdns0() != nil) {
		t.Fatal("the OPT record does not follow the query's")
	}
	for i, n := range []int{len(m.Answer), len(m.Ns), len(m.Extra)} {
		if int(binary.BigEndian.Uint16(b[6+2*i:])) != n {
			t.Fatalf("the answer %x announces other records than it has", b)
		}
	}
	for _, r := range allRecords(&m) {
		if h := r.Header(); h.Ttl > 86400 && h.Rrtype != dns.TypeOPT {
			t.Fatalf("the answer has a TTL of %d", h.Ttl)
		}
	}
}

// FuzzTCP sends bytes over a connection: the server neither panics nor hangs.
func FuzzTCP(f *testing.F) {
	f.Add(frame(newQuery("www.example.com", "AXFR")))
	f.Add(append(frame(newQuery("www.example.com", "ANY")), 0, 3, 1, 2))
	f.Add([]byte{0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, in []byte) {
		s := start(t, &resolver{refuse: true}, func(cfg *Config) { cfg.Limits.PacketRate = 1 })
		s.Close() // names are not asked
		conn, ended := connect(t.Context(), s, alice)
		go func() {
			conn.Write(in)
			conn.Close()
		}()
		for {
			if _, err := readFrame(conn); err != nil {
				break
			}
		}
		<-ended
	})
}
