package dns

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestLifetimes: for how long an answer is used, and the TTLs that a client gets at once and one second
// before that ends.
func TestLifetimes(t *testing.T) {
	for _, c := range []struct {
		what  string
		zone  []string
		qtype string
		want  time.Duration
		first string
		later string // one second before the end
	}{
		{"an address", []string{`a.example.com. 60 IN A 10.0.0.1`}, "A", time.Minute,
			"NOERROR; a.example.com. 60 A 10.0.0.1", "NOERROR; a.example.com. 1 A 10.0.0.1"},
		{"a chain", []string{`a.example.com. 300 IN CNAME b.example.com.`, `b.example.com. 30 IN A 10.0.0.1`}, "A", 30 * time.Second,
			"NOERROR; a.example.com. 300 CNAME b.example.com.; b.example.com. 30 A 10.0.0.1", "NOERROR; a.example.com. 271 CNAME b.example.com.; b.example.com. 1 A 10.0.0.1"},
		{"a week", []string{`a.example.com. 604800 IN A 10.0.0.1`}, "A", 24 * time.Hour,
			"NOERROR; a.example.com. 86400 A 10.0.0.1", "NOERROR; a.example.com. 1 A 10.0.0.1"},
		{"2^31 seconds", []string{`a.example.com. 2147483648 IN A 10.0.0.1`}, "A", 24 * time.Hour,
			"NOERROR; a.example.com. 86400 A 10.0.0.1", "NOERROR; a.example.com. 1 A 10.0.0.1"},
		{"no such name", []string{soa}, "A", time.Minute,
			`NXDOMAIN; example.com. 60 SOA ns.example.com. host\.master.example.com. 1 7200 900 1209600 60`,
			`NXDOMAIN; example.com. 1 SOA ns.example.com. host\.master.example.com. 1 7200 900 1209600 60`},
		{"no such record", []string{soa, `a.example.com. 5 IN A 10.0.0.1`}, "TXT", time.Minute,
			`NOERROR; example.com. 60 SOA ns.example.com. host\.master.example.com. 1 7200 900 1209600 60`,
			`NOERROR; example.com. 1 SOA ns.example.com. host\.master.example.com. 1 7200 900 1209600 60`},
		{"an alias without the record", []string{soa, `a.example.com. 20 IN CNAME b.example.com.`, `b.example.com. 5 IN A 10.0.0.1`}, "TXT", 20 * time.Second,
			`NOERROR; a.example.com. 20 CNAME b.example.com.; example.com. 60 SOA ns.example.com. host\.master.example.com. 1 7200 900 1209600 60`,
			`NOERROR; a.example.com. 1 CNAME b.example.com.; example.com. 41 SOA ns.example.com. host\.master.example.com. 1 7200 900 1209600 60`},
		{"no such name for a day", []string{`example.com. 90000 IN SOA ns.example.com. h.example.com. 1 7200 900 1209600 86400`}, "A", time.Hour,
			`NXDOMAIN; example.com. 3600 SOA ns.example.com. h.example.com. 1 7200 900 1209600 86400`,
			`NXDOMAIN; example.com. 1 SOA ns.example.com. h.example.com. 1 7200 900 1209600 86400`},
		{"no such name without SOA", nil, "A", 0, "NXDOMAIN", ""},
		{"a TTL of 0", []string{`a.example.com. 0 IN A 10.0.0.1`}, "A", 0, "NOERROR; a.example.com. 0 A 10.0.0.1", ""},
		{"a wildcard", []string{`*.example.com. 60 IN A 10.0.0.1`}, "A", time.Minute,
			"NOERROR; a.example.com. 60 A 10.0.0.1", "NOERROR; a.example.com. 1 A 10.0.0.1"},
		{"services", []string{`a.example.com. 60 IN SRV 1 2 443 b\.c.example.com.`}, "SRV", time.Minute,
			`NOERROR; a.example.com. 60 SRV 1 2 443 b\.c.example.com.`, `NOERROR; a.example.com. 1 SRV 1 2 443 b\.c.example.com.`},
		{"texts", []string{`a.example.com. 60 IN TXT "one" "two\255"`, `a.example.com. 60 IN TXT ""`}, "TXT", time.Minute,
			`NOERROR; a.example.com. 60 TXT "one" "two\255"; a.example.com. 60 TXT ""`, `NOERROR; a.example.com. 1 TXT "one" "two\255"; a.example.com. 1 TXT ""`},
		{"HTTPS", []string{`a.example.com. 60 IN HTTPS 1 . alpn="h2" ipv4hint="10.0.0.1"`}, "HTTPS", time.Minute,
			`NOERROR; a.example.com. 60 HTTPS 1 . alpn="h2" ipv4hint="10.0.0.1"`, `NOERROR; a.example.com. 1 HTTPS 1 . alpn="h2" ipv4hint="10.0.0.1"`},
		{"an unknown type", []string{`a.example.com. 60 IN TYPE65280 \# 3 c0ffee`}, "TYPE65280", time.Minute,
			`NOERROR; a.example.com. 60 CLASS1 TYPE65280 \# 3 c0ffee`, `NOERROR; a.example.com. 1 CLASS1 TYPE65280 \# 3 c0ffee`},
	} {
		t.Run(c.what, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := &resolver{respond: records(c.zone...)}
				s := start(t, r, nil)
				get := func() *dns.Msg {
					return ask(t, s, alice, "a.example.com", c.qtype, func(q *dns.Msg) {
						if q.Question[0].Qtype == 0 {
							q.Question[0].Qtype = 65280
						}
					})
				}
				expect(t, get(), c.first)
				r.seen()
				if c.want == 0 {
					get()
					if len(r.seen()) != 1 {
						t.Error("the answer came from the cache")
					}
					return
				}
				time.Sleep(c.want - time.Second)
				expect(t, get(), c.later)
				if asked := r.seen(); len(asked) != 0 {
					t.Errorf("the resolver was asked %q before the lifetime ended", asked)
				}
				time.Sleep(time.Second)
				get()
				if len(r.seen()) != 1 {
					t.Errorf("the answer was used after %v", c.want)
				}
			})
		})
	}
}

// TestKeys: questions whose answers may differ do not share one.
func TestKeys(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := &resolver{respond: records(`a.example.com. 60 IN A 10.0.0.1`, soa)}
		s := start(t, r, nil)
		for range 2 {
			ask(t, s, alice, "a.example.com", "A")
			ask(t, s, alice, "a.example.com", "A", edns)
			ask(t, s, alice, "a.example.com", "AAAA")
			ask(t, s, alice, "a.example.com", "A", func(q *dns.Msg) { q.SetEdns0(1232, true) })
			ask(t, s, alice, "a.example.com", "A", func(q *dns.Msg) { q.CheckingDisabled = true })
		}
		expectAsked(t, r, "udp A a.example.com.", "udp A a.example.com.", "udp A a.example.com.", "udp AAAA a.example.com.")
	})
}

// TestCacheBounds: the cache keeps its bounds, and a node its share; it forgets unused answers first.
func TestCacheBounds(t *testing.T) {
	const entries, bytes = 100, 60_000
	node := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{100, 64, 0, byte(i)}) }
	now := time.Now()
	put := func(c *cache, n netip.Addr, name string) {
		a := failureAnswer(key{name: name + ".", qtype: dns.TypeA}, unreachable)
		a.lifetime = time.Minute
		c.put(key{name: name + "."}, a, n, hit, now)
	}
	c := newCache(entries, bytes)
	put(c, node(1), "used")
	put(c, node(1), "unused")
	for i := range 1000 {
		put(c, node(2), fmt.Sprint("flood-", i))
		if c.get(key{name: "used."}, now) == nil {
			t.Fatalf("the answer of another node is gone after %d", i)
		}
	}
	if c.get(key{name: "unused."}, now) == nil {
		t.Error("a flood of one node evicted the answer of another")
	}
	if got := c.owners[node(2)]; got.entries.Len() != entries/ownerShare || got.bytes > bytes/ownerShare {
		t.Errorf("one node has %d answers with %d bytes", got.entries.Len(), got.bytes)
	}
	for n := range 50 {
		for i := range 20 {
			put(c, node(n+3), fmt.Sprint("flood-", n, "-", i))
			c.get(key{name: "used."}, now)
		}
	}
	if c.get(key{name: "used."}, now) == nil || c.get(key{name: "unused."}, now) != nil {
		t.Error("the cache does not evict by use")
	}
	big := &answer{wire: make([]byte, bytes/ownerShare+1), lifetime: time.Minute}
	before := len(c.entries)
	if c.put(key{name: "big."}, big, c.all.Front().Value.(*entry).owner.node, hit, now); len(c.entries) != before || c.entries[key{name: "big."}] != nil {
		t.Error("an answer that is more than a share is kept, or evicted others")
	}
	sum := 0
	for _, e := range c.entries {
		sum += e.size
	}
	owned := 0
	for _, o := range c.owners {
		owned += o.entries.Len()
	}
	if len(c.entries) > entries || c.bytes > bytes || sum != c.bytes || owned != len(c.entries) || c.all.Len() != owned {
		t.Errorf("%d entries of %d owned and %d in order, %d bytes counted as %d", len(c.entries), owned, c.all.Len(), sum, c.bytes)
	}
	for e := c.all.Front(); e != nil; e = c.all.Front() {
		c.remove(e.Value.(*entry))
	}
	if c.bytes != 0 || len(c.owners) != 0 || len(c.entries) != 0 {
		t.Errorf("after all left: %d bytes, %d owners, %d entries", c.bytes, len(c.owners), len(c.entries))
	}
}
