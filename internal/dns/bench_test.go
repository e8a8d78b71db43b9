package dns

import (
	"net/netip"
	"testing"

	"github.com/miekg/dns"
)

// BenchmarkHit measures a query that the cache answers.
func BenchmarkHit(b *testing.B) {
	for _, c := range []struct {
		what   string
		change func(*dns.Msg)
	}{{"plain", func(*dns.Msg) {}}, {"EDNS", edns}} {
		b.Run(c.what, func(b *testing.B) {
			r := &resolver{respond: records(`www.example.com. 60 IN CNAME lb.example.com.`, `lb.example.com. 60 IN A 10.0.0.1`, `lb.example.com. 60 IN A 10.0.0.2`)}
			s := start(b, r, func(cfg *Config) { cfg.Limits.PeerRate = 1 << 30 })
			q := pack(newQuery("www.example.com", "A", c.change))
			s.Serve(b.Context(), alice, false, q)
			sent := 0
			send := func(out []byte) { sent += len(out) }
			b.ReportAllocs()
			for b.Loop() {
				s.Handle(alice, false, q, send)
			}
			if sent == 0 {
				b.Fatal("there was no answer")
			}
		})
	}
}

// BenchmarkMiss measures a question to a resolver in this process.
func BenchmarkMiss(b *testing.B) {
	r := &resolver{respond: records(`*.example.com. 0 IN A 10.0.0.1`)}
	s := start(b, r, func(cfg *Config) { cfg.Limits = Limits{PeerRate: 1 << 30, PacketRate: 1 << 30, PeerMissRate: 1 << 30} })
	q := pack(newQuery("www.example.com", "A", edns))
	client := netip.AddrPortFrom(alice.Addr(), 1)
	b.ReportAllocs()
	for b.Loop() {
		if s.Serve(b.Context(), client, false, q) == nil {
			b.Fatal("there was no answer")
		}
		r.seen()
	}
}
