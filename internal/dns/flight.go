package dns

import (
	"errors"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// waiter is a client's query in a flight.
type waiter struct {
	query  query
	peer   *peer
	send   func([]byte)
	result result
}

// flight is a question of clients that the resolver is being asked. There is one for each question;
// later clients join it. The lock of the server guards it.
type flight struct {
	key     key
	zone    *zone
	owner   netip.Addr // the node that asked first
	peer    *peer      // its share, which counts the flight; nil for a refresh
	cost    int        // questions to the resolver
	old     *entry     // an answer for the time when it is stale and the resolver is slow; nil if there is none
	slow    bool       // the clients had the stale answer; the flight only refreshes the cache
	waiters []waiter
	timer   *time.Timer
}

// cost returns the number of questions that k takes.
func (s *Server) cost(k key) int {
	if s.cfg.Site != nil && k.qtype == dns.TypeAAAA {
		return 2
	}
	return 1
}

// admitFlight takes the share of p for a flight, or reports why it cannot. It is called with the lock.
func (s *Server) admitFlight(q *query, p *peer, now time.Time) *refusal {
	return s.limiter.admitMiss(p, s.cost(q.key), s.inFlight, now)
}

// mayPrefetch reports whether there is room for a flight that no client waits for, and takes its
// tokens. It is called with the lock.
func (s *Server) mayPrefetch(now time.Time) bool {
	return s.inFlight < s.cfg.Limits.InFlight/2 && s.limiter.misses.take(now, 2, 0.5)
}

// newFlight registers a flight, which the caller starts with fly once the lock is released. It returns
// nil after Close, or if there is one already. It is called with the lock.
func (s *Server) newFlight(q *query, p *peer, now time.Time) *flight {
	if s.closed || s.flights[q.key] != nil {
		return nil
	}
	f := &flight{key: q.key, zone: q.zone, peer: p, cost: s.cost(q.key)}
	e := s.cache.entries[q.key]
	if p != nil {
		f.owner = p.addr
		p.inFlight += f.cost
	} else if e != nil {
		f.owner = e.owner.node
	}
	if e.staleReply(now).answer != nil {
		f.old = e
	}
	s.inFlight += f.cost
	s.flights[q.key] = f
	s.work.Add(1)
	return f
}

// fly asks the resolver and answers the clients.
func (s *Server) fly(f *flight) {
	defer s.work.Done()
	if f.old != nil {
		s.mu.Lock()
		f.timer = time.AfterFunc(staleAfter, func() { s.answerStale(f) })
		s.mu.Unlock()
	}
	facts := s.facts.Load()
	begun := time.Now()
	a, err := s.resolve(f.key, facts)
	f.zone.asked(time.Since(begun))

	now := time.Now()
	s.mu.Lock()
	if f.timer != nil {
		f.timer.Stop()
	}
	if s.flights[f.key] == f { // not since SetRoutes
		delete(s.flights, f.key)
	}
	s.inFlight -= f.cost
	if f.peer != nil {
		f.peer.inFlight -= f.cost
	}
	out := s.landed(f, facts, a, err, now)
	waiters := s.takeWaiters(f)
	s.mu.Unlock()

	for i := range waiters {
		w := &waiters[i]
		if out.result == hit { // the resolver's answer
			s.finish(&w.query, reply{answer: out.answer, refuse: out.refuse, result: w.result}, w.send)
		} else {
			s.finish(&w.query, out, w.send)
		}
	}
}

// landed stores the outcome of a flight and returns it for the clients. It is called with the lock.
func (s *Server) landed(f *flight, facts *facts, a *answer, err error, now time.Time) reply {
	current := facts.generation == s.facts.Load().generation
	if err == nil {
		if current {
			s.cache.put(f.key, a, f.owner, hit, now)
		}
		return reply{answer: a, result: hit}
	}
	refuse := unreachable
	if r, ok := errors.AsType[*refusalError](err); ok {
		refuse = r.refusal
	}
	e := s.cache.entries[f.key]
	if e.staleReply(now).answer != nil && refuse.result == failed {
		e.recheck = now.Add(recheckAfter)
		return e.staleReply(now)
	}
	if current && !s.closed {
		s.cache.put(f.key, failureAnswer(f.key, refuse), f.owner, refuse.result, now)
	}
	return reply{refuse: refuse, result: refuse.result}
}

// answerStale answers the clients of a flight with the stale answer, since the resolver is slow.
func (s *Server) answerStale(f *flight) {
	s.mu.Lock()
	old := f.old
	if s.cache.entries[f.key] != old { // of other routes, or evicted
		s.mu.Unlock()
		return
	}
	f.slow = true
	waiters := s.takeWaiters(f)
	s.mu.Unlock()
	for i := range waiters {
		s.finish(&waiters[i].query, reply{answer: old.answer, stale: true, result: stale}, waiters[i].send)
	}
}

// takeWaiters removes the clients from a flight. It is called with the lock.
func (s *Server) takeWaiters(f *flight) []waiter {
	out := f.waiters
	f.waiters = nil
	for _, w := range out {
		w.peer.waiting--
	}
	s.waiting -= len(out)
	return out
}
