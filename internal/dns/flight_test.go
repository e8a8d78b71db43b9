package dns

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

const www = `www.example.com. 60 IN A 10.0.0.1`

// TestCoalescing: clients that ask the same meanwhile share one question.
func TestCoalescing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := &resolver{respond: after(100*time.Millisecond, records(`www.example.com. 0 IN A 10.0.0.1`))}
		s := start(t, r, nil)
		answers := make(chan []byte, 50)
		for i := range 50 {
			client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{100, 64, 0, byte(i)}), 1)
			s.Handle(client, i%2 == 0, pack(newQuery("www.example.com", "A")), func(b []byte) { answers <- b })
		}
		synctest.Wait()
		if len(answers) != 0 {
			t.Errorf("%d clients were answered before the resolver did", len(answers))
		}
		for range 50 {
			m := new(dns.Msg)
			if err := m.Unpack(<-answers); err != nil {
				t.Fatal(err)
			}
			expect(t, m, "NOERROR; www.example.com. 0 A 10.0.0.1")
		}
		expectAsked(t, r, "udp A www.example.com.")
	})
}

// TestStale follows RFC 8767: a stale answer is used once the resolver fails or is slow, for a day, and
// the resolver is not asked each time.
func TestStale(t *testing.T) {
	const fresh, old = "NOERROR; www.example.com. 60 A 10.0.0.1", "NOERROR; www.example.com. 30 A 10.0.0.1; EDE Stale Answer"
	begin := func(t *testing.T) (*resolver, *Server) {
		r := &resolver{respond: records(www, soa)}
		s := start(t, r, nil)
		expect(t, ask(t, s, alice, "www.example.com", "A"), fresh)
		time.Sleep(2 * time.Minute)
		r.seen()
		return r, s
	}
	timed := func(t *testing.T, s *Server, want time.Duration, text string) {
		t.Helper()
		begun := time.Now()
		expect(t, ask(t, s, alice, "www.example.com", "A", edns), text)
		if took := time.Since(begun); took != want {
			t.Errorf("the answer took %v, want %v", took, want)
		}
	}
	t.Run("slow", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			r, s := begin(t)
			r.set(after(3*time.Second, records(`www.example.com. 60 IN A 10.0.0.2`)))
			timed(t, s, staleAfter, old)
			timed(t, s, 0, old) // the question is still in flight
			time.Sleep(2 * time.Second)
			timed(t, s, 0, "NOERROR; www.example.com. 60 A 10.0.0.2")
		})
	})
	t.Run("silent", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			r, s := begin(t)
			r.set(silent)
			timed(t, s, staleAfter, old)
			time.Sleep(askWithin - staleAfter)
			expectAsked(t, r, "tcp A www.example.com.", "udp A www.example.com.", "udp A www.example.com.", "udp A www.example.com.")
			time.Sleep(recheckAfter - time.Second)
			timed(t, s, 0, old)
			expectAsked(t, r)
			time.Sleep(2 * time.Second)
			r.set(records(www))
			timed(t, s, 0, fresh)
		})
	})
	t.Run("failing", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			r, s := begin(t)
			r.set(rcode(dns.RcodeServerFailure))
			timed(t, s, 0, old)
			time.Sleep(recheckAfter + time.Second)
			r.set(records(soa))
			timed(t, s, 0, `NXDOMAIN; example.com. 60 SOA ns.example.com. host\.master.example.com. 1 7200 900 1209600 60`)
			time.Sleep(2 * time.Minute)
			r.set(rcode(dns.RcodeServerFailure))
			timed(t, s, 0, `NXDOMAIN; example.com. 30 SOA ns.example.com. host\.master.example.com. 1 7200 900 1209600 60; EDE Stale NXDOMAIN Answer`)
		})
	})
	t.Run("too old", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			r, s := begin(t)
			r.set(silent)
			time.Sleep(24 * time.Hour)
			timed(t, s, askWithin, "SERVFAIL; EDE Network Error")
			timed(t, s, 0, "SERVFAIL; EDE Network Error") // remembered (RFC 9520)
			time.Sleep(failureTTL)
			r.set(records(www))
			timed(t, s, 0, fresh)
		})
	})
}

// rcode answers with a code only.
func rcode(code int) func(string, *dns.Msg) []response {
	return func(_ string, q *dns.Msg) []response { return []response{{msg: pack(new(dns.Msg).SetRcode(q, code))}} }
}

// TestPrefetch: a popular name is refreshed before it ends, once, and an unpopular one is not.
func TestPrefetch(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := &resolver{respond: records(www)}
		s := start(t, r, nil)
		for range 3 {
			ask(t, s, alice, "www.example.com", "A")
		}
		time.Sleep(55 * time.Second)
		r.seen()
		r.set(after(300*time.Millisecond, records(`www.example.com. 60 IN A 10.0.0.2`)))
		for range 3 { // the third use
			expect(t, ask(t, s, alice, "www.example.com", "A"), "NOERROR; www.example.com. 5 A 10.0.0.1")
		}
		synctest.Wait()
		s.mu.Lock()
		if used := s.limiter.misses.size - s.limiter.misses.tokens; used != 2 {
			t.Errorf("the refresh used %g tokens", used)
		}
		s.mu.Unlock()
		expectAsked(t, r, "udp A www.example.com.")
		time.Sleep(time.Second)
		synctest.Wait()
		expect(t, ask(t, s, alice, "www.example.com", "A"), "NOERROR; www.example.com. 60 A 10.0.0.2")
		time.Sleep(55 * time.Second)
		ask(t, s, alice, "www.example.com", "A")
		synctest.Wait()
		expectAsked(t, r)
	})
}

// TestPrefetchFails: a refresh that fails harms nothing, and is not repeated with each query.
func TestPrefetchFails(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := &resolver{respond: records(`www.example.com. 600 IN A 10.0.0.1`)}
		s := start(t, r, nil)
		ask(t, s, alice, "www.example.com", "A")
		time.Sleep(541 * time.Second)
		r.set(rcode(dns.RcodeServerFailure))
		r.seen()
		for range 10 {
			expect(t, ask(t, s, alice, "www.example.com", "A"), "NOERROR; www.example.com. 59 A 10.0.0.1")
			synctest.Wait()
		}
		expectAsked(t, r, "udp A www.example.com.")
	})
}

// TestClose: clients that wait are answered, and no goroutine is left, which synctest checks.
func TestClose(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := &resolver{respond: silent}
		s := start(t, r, nil)
		got := make(chan []byte, 1)
		s.Handle(alice, false, pack(newQuery("www.example.com", "A")), func(b []byte) { got <- b })
		synctest.Wait()
		s.Close()
		m := new(dns.Msg)
		if err := m.Unpack(<-got); err != nil {
			t.Fatal(err)
		}
		expect(t, m, "SERVFAIL")
		expect(t, ask(t, s, alice, "other.example.com", "A", edns), "SERVFAIL; EDE Not Ready")
	})
}

// TestFlood: nodes that ask for many names are refused, and do not hurt another.
func TestFlood(t *testing.T) {
	for _, nodes := range []int{1, 5} {
		t.Run(fmt.Sprint(nodes), func(t *testing.T) {
			bubble(t, func(t *testing.T) { flood(t, nodes) })
		})
	}
}

func flood(t *testing.T, nodes int) {
	r := &resolver{respond: after(10*time.Millisecond, records(`*.example.com. 60 IN A 10.0.0.1`))}
	s := start(t, r, nil)
	var refusals, answers atomic.Int32
	done := func(b []byte) {
		m := new(dns.Msg)
		if err := m.Unpack(b); err != nil {
			t.Error(err)
		}
		if m.Rcode == dns.RcodeSuccess {
			answers.Add(1)
		} else {
			refusals.Add(1)
		}
	}
	begun := time.Now()
	for i := range 3000 { // 1,000 a second of each node
		for n := range nodes {
			client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{100, 64, 1, byte(n)}), 1)
			s.Handle(client, false, pack(newQuery(fmt.Sprintf("n%d-%d.example.com", n, i), "A", edns)), done)
		}
		time.Sleep(time.Millisecond)
		if sent := s.upstream.last(time.Now()); sent > 1024 {
			t.Fatalf("%d packets were sent in a second", sent)
		}
		if i%100 == 50 {
			expect(t, ask(t, s, bob, fmt.Sprintf("b%d.example.com", i), "A"), fmt.Sprintf("NOERROR; b%d.example.com. 60 A 10.0.0.1", i))
		}
	}
	took := time.Since(begun)
	each := 200 * (took + peerBurst).Seconds()
	if most := int32(min(each*float64(nodes), 800*(took+sharedBurst).Seconds())); answers.Load() > most || answers.Load() < most/2 {
		t.Errorf("the nodes had %d answers in %v, want up to %d", answers.Load(), took, most)
	}
	if refusals.Load() == 0 {
		t.Error("no query was refused")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for addr, o := range s.cache.owners {
		if o.bytes > s.cache.maxBytes/ownerShare {
			t.Errorf("node %v has %d bytes of the cache", addr, o.bytes)
		}
	}
}

// TestRate: a node's queries are limited even if the cache answers them, and those of another are not.
func TestRate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var log bytes.Buffer
		s := start(t, &resolver{respond: records(www)}, func(cfg *Config) {
			cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
			cfg.Limits.PeerRate = 10
			cfg.Peer = func(a netip.Addr) netip.Addr { return a.Unmap() }
		})
		answered := func(client netip.AddrPort) (n int) {
			for range 100 {
				if m := ask(t, s, client, "www.example.com", "A", edns); m.Rcode == dns.RcodeSuccess {
					n++
				} else {
					expect(t, m, "REFUSED; EDE Prohibited")
				}
			}
			return n
		}
		mapped := netip.AddrPortFrom(netip.AddrFrom16(alice.Addr().As16()), 1)
		if a, b, again := answered(alice), answered(bob), answered(mapped); a != 20 || b != 20 || again != 0 {
			t.Errorf("%d, %d and %d queries were answered", a, b, again)
		}
		time.Sleep(time.Second)
		if n := answered(mapped); n != 10 {
			t.Errorf("%d queries were answered a second later", n)
		}
		for _, client := range []netip.AddrPort{alice, bob} {
			if n := strings.Count(log.String(), "too many DNS queries; the rest is refused\" client="+client.Addr().String()+" "); n != 1 {
				t.Errorf("the log names %v %d times:\n%s", client.Addr(), n, log.String())
			}
		}
	})
}

// TestBounds: with a silent resolver, everything that waits is bounded, and another node's name that is
// in the cache is answered.
func TestBounds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := &resolver{respond: records(www)}
		s := start(t, r, func(cfg *Config) {
			cfg.Limits = Limits{InFlight: 20, Waiting: 100, PeerWaiting: 30, PacketRate: 1 << 20, PeerRate: 1 << 20}
		})
		ask(t, s, bob, "www.example.com", "A")
		r.set(silent)
		codes := map[string]int{}
		done := func(b []byte) {
			m := new(dns.Msg)
			if err := m.Unpack(b); err != nil {
				t.Error(err)
			}
			s.mu.Lock() // also guards codes
			codes[text(m)]++
			s.mu.Unlock()
		}
		for i := range 100 {
			s.Handle(alice, false, pack(newQuery(fmt.Sprintf("n%d.example.com", i), "A")), done)
		}
		for range 100 {
			s.Handle(alice, false, pack(newQuery("n0.example.com", "A")), done)
		}
		synctest.Wait()
		s.mu.Lock()
		if s.inFlight != 5 || s.waiting != 30 || len(s.flights) != 5 || codes["REFUSED"] != 170 {
			t.Errorf("%d questions and %d queries of one node wait; answers: %v", s.inFlight, s.waiting, codes)
		}
		s.mu.Unlock()
		for n := range 100 {
			client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{100, 64, 1, byte(n)}), 1)
			for i := range 10 {
				s.Handle(client, false, pack(newQuery(fmt.Sprintf("n%d-%d.example.com", n, i), "A")), done)
			}
		}
		synctest.Wait()
		s.mu.Lock()
		if s.inFlight != 20 || s.waiting > 100 {
			t.Errorf("%d questions and %d queries wait", s.inFlight, s.waiting)
		}
		s.mu.Unlock()
		expect(t, ask(t, s, bob, "www.example.com", "A"), "NOERROR; www.example.com. 60 A 10.0.0.1")
		time.Sleep(askWithin)
		synctest.Wait()
		r.mu.Lock()
		if most := len(tries) * 20; r.maxOpen != most || r.open != 0 {
			t.Errorf("%d connections were open at once, want %d, and %d still are", r.maxOpen, most, r.open)
		}
		r.mu.Unlock()
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.inFlight != 0 || s.waiting != 0 || len(s.flights) != 0 || len(s.upstream.calls) != 0 {
			t.Errorf("%d questions, %d queries, %d flights are left", s.inFlight, s.waiting, len(s.flights))
		}
		for _, p := range s.limiter.peers {
			if !p.idle() {
				t.Errorf("node %v still has %d queries and %d questions", p.addr, p.waiting, p.inFlight)
			}
		}
	})
}

// TestFewFlights: once half of the questions are in flight, a node that has many of them gets no more.
func TestFewFlights(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := start(t, &resolver{respond: silent}, func(cfg *Config) {
			cfg.Limits = Limits{InFlight: 40, PeerInFlight: 40, PacketRate: 1 << 20}
		})
		for i, client := range []netip.AddrPort{alice, bob} {
			for n := range 40 {
				s.Handle(client, false, pack(newQuery(fmt.Sprintf("n%d-%d.example.com", i, n), "A")), func([]byte) {})
			}
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if a, b := s.limiter.peers[alice.Addr()].inFlight, s.limiter.peers[bob.Addr()].inFlight; a != 21 || b != fewFlights {
			t.Errorf("the first node has %d questions in flight, the second %d", a, b)
		}
	})
}

// TestRetriesLeaveRoom: further tries of questions leave tokens to the first tries of others.
func TestRetriesLeaveRoom(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := &resolver{respond: silent}
		s := start(t, r, func(cfg *Config) { cfg.Limits = Limits{PacketRate: 1} })
		for i := range 20 {
			s.Handle(alice, false, pack(newQuery(fmt.Sprintf("n%d.example.com", i), "A")), func([]byte) {})
		}
		synctest.Wait()
		first := len(r.seen())
		time.Sleep(time.Second)
		synctest.Wait()
		s.mu.Lock()
		tokens := s.limiter.misses.tokens
		s.mu.Unlock()
		if further := len(r.seen()); first < 5 || further == 0 || further >= first || tokens < 3 {
			t.Errorf("%d first and %d further tries left %g tokens", first, further, tokens)
		}
	})
}

// TestPeersAreBounded: the table of nodes keeps its bound, and forgets idle ones first.
func TestPeersAreBounded(t *testing.T) {
	now := time.Now()
	limits := &Limits{}
	limits.setDefaults()
	l := newLimiter(limits)
	busy := l.peer(alice.Addr(), now)
	busy.waiting = 1
	node := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{100, 65, byte(i >> 8), byte(i)}) }
	for i := range maxPeers - 1 {
		l.peer(node(i), now)
	}
	if l.peer(bob.Addr(), now) != nil {
		t.Error("a busy node was forgotten")
	}
	busy.waiting = 0
	if l.peer(bob.Addr(), now) == nil || l.peers[alice.Addr()] != nil || len(l.peers) != maxPeers {
		t.Errorf("%d nodes are known", len(l.peers))
	}
}
