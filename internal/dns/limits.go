package dns

import (
	"container/list"
	"net/netip"
	"sync"
	"time"
)

const (
	maxPeers   = 4096 // nodes whose queries are counted
	peerBurst  = 2 * time.Second
	warnEvery  = time.Hour // of one node
	fewFlights = 8         // that a node may start although half of all are in flight
	// sharedBurst is short: a second has at most 5/4 of the rate, 1,000 packets by default, and AWS
	// drops packets above 1,024.
	sharedBurst = time.Second / 4
)

// bucket is a token bucket: it gets rate tokens a second, and holds size at most.
type bucket struct {
	rate, size, tokens float64
	filled             time.Time
}

// newBucket returns a full bucket that holds the tokens of a burst.
func newBucket(rate int, burst time.Duration, now time.Time) bucket {
	size := max(2*tcpPackets, float64(rate)*burst.Seconds())
	return bucket{rate: float64(rate), size: size, tokens: size, filled: now}
}

func (b *bucket) fill(now time.Time) {
	b.tokens = min(b.size, b.tokens+b.rate*now.Sub(b.filled).Seconds())
	b.filled = now
}

// take takes n tokens, unless fewer than n and the part keep of all are there.
func (b *bucket) take(now time.Time, n, keep float64) bool {
	b.fill(now)
	if b.tokens < n+keep*b.size {
		return false
	}
	b.tokens -= n
	return true
}

// peer is the share of one node. The lock of the server guards it.
type peer struct {
	addr            netip.Addr
	queries, misses bucket
	waiting         int       // its queries in flights
	inFlight        int       // questions that it caused
	connections     int       // over TCP
	warned          time.Time // when the log had its refusals
	used            *list.Element
}

func (p *peer) idle() bool { return p.waiting == 0 && p.inFlight == 0 && p.connections == 0 }

// limiter holds the shares of the nodes that sent the most recent queries. The lock of the server
// guards it.
type limiter struct {
	limits *Limits
	peers  map[netip.Addr]*peer
	recent *list.List // of *peer, the most recent first
	misses bucket     // of all nodes, in packets to the resolver
}

func newLimiter(l *Limits) *limiter {
	return &limiter{limits: l, peers: map[netip.Addr]*peer{}, recent: list.New(), misses: newBucket(l.PacketRate, sharedBurst, time.Now())}
}

// peer returns the share of a node; nil if there are too many nodes. A node that was forgotten has a
// full share again, but only 4,096 other nodes can cause that.
func (l *limiter) peer(addr netip.Addr, now time.Time) *peer {
	if p := l.peers[addr]; p != nil {
		l.recent.MoveToFront(p.used)
		return p
	}
	if len(l.peers) >= maxPeers {
		oldest := l.recent.Back().Value.(*peer)
		if !oldest.idle() {
			return nil
		}
		l.recent.Remove(oldest.used)
		delete(l.peers, oldest.addr)
	}
	p := &peer{addr: addr, queries: newBucket(l.limits.PeerRate, peerBurst, now), misses: newBucket(l.limits.PeerMissRate, peerBurst, now)}
	p.used = l.recent.PushFront(p)
	l.peers[addr] = p
	return p
}

// mayWarn reports whether the log should have the refusals of a node, which it then had.
func (s *Server) mayWarn(node netip.Addr, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.limiter.peers[node]
	if p == nil || !p.warned.IsZero() && now.Sub(p.warned) < warnEvery {
		return false
	}
	p.warned = now
	return true
}

// admitWaiting reports why one more query of p may not wait for the resolver; nil if it may.
func (l *limiter) admitWaiting(p *peer, waiting int) *refusal {
	switch {
	case p.waiting >= l.limits.PeerWaiting:
		return tooManyQueries
	case waiting >= l.limits.Waiting:
		return overloaded
	}
	return nil
}

// admitMiss reports why p may not cause n more questions to the resolver, and takes its tokens if it
// may. The more of its own tokens a node has used, the more of the shared ones it leaves to others, up
// to half. A node also pays for questions that find no shared token left: otherwise nodes that flood
// together would keep their own tokens and so leave nothing.
func (l *limiter) admitMiss(p *peer, n, inFlight int, now time.Time) *refusal {
	if p.inFlight+n > l.limits.PeerInFlight {
		return tooManyQueries
	}
	if inFlight+n > l.limits.InFlight || inFlight > l.limits.InFlight/2 && p.inFlight >= fewFlights {
		return overloaded
	}
	p.misses.fill(now)
	keep := (1 - p.misses.tokens/p.misses.size) / 2
	if p.misses.tokens < float64(n) {
		return tooManyQueries
	}
	p.misses.tokens -= float64(n)
	if !l.misses.take(now, float64(n), keep) {
		return overloaded
	}
	return nil
}

// takePackets takes n of the shared tokens for a further try of a question, and reports whether there
// were enough. A quarter is left to first tries.
func (s *Server) takePackets(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.limiter.misses.take(time.Now(), float64(n), 0.25)
}

// A Gate admits queries that others than a [Server] answer: it bounds the questions to the resolver by the
// same shares.
type Gate struct {
	peer func(client netip.Addr) netip.Addr

	mu       *sync.Mutex // covers the fields below; that of the server, if there is one
	limiter  *limiter
	inFlight *int
}

// NewGate returns a gate with shares of its own. peer is [Config.Peer].
func NewGate(peer func(client netip.Addr) netip.Addr, limits Limits) *Gate {
	limits.setDefaults()
	return &Gate{peer, new(sync.Mutex), newLimiter(&limits), new(int)}
}

// Gate returns a gate that takes from the shares of the server.
func (s *Server) Gate() *Gate { return &Gate{s.cfg.Peer, &s.mu, s.limiter, &s.inFlight} }

// Enter admits a query of a client as one question, unless its share is used up. The caller calls
// leave when the question is answered.
func (g *Gate) Enter(client netip.Addr) (leave func(), ok bool) {
	node, now := g.peer(client), time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.limiter.peer(node, now)
	if p == nil || !p.queries.take(now, 1, 0) || g.limiter.admitMiss(p, 1, *g.inFlight, now) != nil {
		return nil, false
	}
	p.inFlight++
	*g.inFlight++
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		p.inFlight--
		*g.inFlight--
	}, true
}
