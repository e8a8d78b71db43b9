// Package dns answers the clients' DNS queries for the VPC's resolver: from a cache, or by asking the
// resolver. It opens no socket towards clients: its owner passes it queries and sends the answers.
//
// A query takes these steps, each in a file of its own:
//
//	query.go      the checks of RFC 1035, 6891 and 8482, and the refusals
//	limits.go     the shares of a node
//	cache.go      answers, fresh or stale (RFC 2308, 8767)
//	flight.go     the question in flight, with the clients that wait for it
//	upstream.go   the exchange with the resolver
//	rebind.go     answers that must not reach clients
//	via.go        addresses of a VPC that overlaps with others become 4via6 addresses
//	answer.go     the answer in wire format, as this client can take it
package dns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Config configures a [Server]. The zero value of a field means the default that its comment gives.
type Config struct {
	// Dial connects to the VPC's resolver; the network is "udp" or "tcp". Each connection must
	// have a source port that is hard to guess, as the kernel chooses it, and a UDP one must
	// only receive from the resolver, as a connected socket does. Required.
	Dial func(ctx context.Context, network string) (net.Conn, error)
	// Site is the 4via6 site of the VPC. Default: none; addresses are not changed.
	Site *uint32
	// RebindGuard refuses answers outside of the private zones that lead into the tailnet or to
	// the client's own machine or network. See [Server.SetZones] and [Server.SetRoutes].
	RebindGuard bool
	// Listener reports whether a is an address at which the router itself listens, for the
	// rebinding guard. It must not block. Default: none is.
	Listener func(a netip.Addr) bool
	// Peer maps a client's address to one address of its node, so that all addresses of a node
	// share its limits. It must not block. Default: each address is a peer.
	Peer func(client netip.Addr) netip.Addr
	// Limits bound memory, connections and packets. Default: those of each field.
	Limits Limits
	// Registerer registers the metrics. Default: they are not registered.
	Registerer prometheus.Registerer
	Logger     *slog.Logger
}

// Server answers queries. Its methods may be called concurrently.
type Server struct {
	cfg      Config
	metrics  *metrics
	upstream *upstream
	facts    atomic.Pointer[facts]

	stop    context.CancelFunc
	running context.Context // ends with Close
	work    sync.WaitGroup  // the flights

	// mu guards everything below, and the fields of flights, peers and the cache's entries. It
	// is held for short computations only: no call of Config, of a client's answer function or of
	// the log is made with it.
	mu          sync.Mutex
	closed      bool
	cache       *cache
	flights     map[key]*flight // which queries may join
	limiter     *limiter
	waiting     int // clients of all flights
	inFlight    int // questions that flights ask the resolver
	connections int // of clients, over TCP
}

// facts are the properties of the VPC that the owner sets. They are immutable and replaced as a whole.
type facts struct {
	routes []netip.Prefix
	zones  *zones
	// generation changes with the routes: an answer that was made with other routes is not cached.
	generation uint64
}

// routed reports whether a is inside an advertised route.
func (f *facts) routed(a netip.Addr) bool {
	return slices.ContainsFunc(f.routes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// New returns a server. Its owner calls Close.
func New(cfg Config) (*Server, error) {
	if cfg.Dial == nil || cfg.Logger == nil {
		return nil, errors.New("creating the DNS server: Dial and Logger are required")
	}
	if cfg.Listener == nil {
		cfg.Listener = func(netip.Addr) bool { return false }
	}
	if cfg.Peer == nil {
		cfg.Peer = func(client netip.Addr) netip.Addr { return client }
	}
	cfg.Limits.setDefaults()
	s := &Server{cfg: cfg, flights: map[key]*flight{}, cache: newCache(cfg.Limits.CacheEntries, cfg.Limits.CacheBytes), limiter: newLimiter(&cfg.Limits)}
	s.facts.Store(&facts{zones: newZones(nil)})
	m, err := newMetrics(cfg.Registerer, s)
	if err != nil {
		return nil, fmt.Errorf("registering DNS metrics: %w", err)
	}
	s.metrics = m
	s.running, s.stop = context.WithCancel(context.Background())
	s.upstream = newUpstream(s.running, cfg.Dial, s.takePackets, m, cfg.Logger)
	return s, nil
}

// Close ends every exchange with the resolver; the clients that wait for one are answered with
// SERVFAIL. It returns once all are. Queries that arrive later are answered from the cache or with
// SERVFAIL.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.work.Wait()
}

// Failing returns an error while the VPC's resolver does not answer: the last questions in a row had no
// answer, of whatever kind.
func (s *Server) Failing() error { return s.upstream.failing() }

// SetRoutes sets the prefixes that the router advertises for the VPC, before any 4via6 mapping. With
// a site, answers with addresses inside of them change; the rebinding guard allows such addresses. A
// change empties the cache.
func (s *Server) SetRoutes(routes []netip.Prefix) {
	routes = slices.Clone(routes)
	slices.SortFunc(routes, netip.Prefix.Compare)
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.facts.Load()
	if slices.Equal(old.routes, routes) {
		return
	}
	s.facts.Store(&facts{routes: routes, zones: old.zones, generation: old.generation + 1})
	s.cache.clear()
	clear(s.flights) // they still answer the clients that they have
}

// SetZones sets the VPC's private zones. Each of the first 50 has metrics of its own, and the
// rebinding guard does not apply in any. Names may end with a dot; invalid ones are an error that
// names all of them, and the valid ones take effect. Refusals of the guard may be used for 30 s more.
func (s *Server) SetZones(names []string) error {
	z, err := parseZones(names)
	s.mu.Lock()
	defer s.mu.Unlock()
	f := *s.facts.Load()
	f.zones = z
	s.metrics.setZones(z)
	s.facts.Store(&f)
	return err
}

// Serve answers a client's query and waits for the answer; nil means that none must be sent. If ctx
// ends first, the result is nil and the answer still reaches the cache.
func (s *Server) Serve(ctx context.Context, client netip.AddrPort, tcp bool, query []byte) []byte {
	got := make(chan []byte, 1)
	s.Handle(client, tcp, query, func(b []byte) { got <- b })
	select {
	case b := <-got:
		return b
	case <-ctx.Done():
		return nil
	}
}

// Handle answers a client's query without waiting: it calls answer exactly once, with nil if none
// must be sent. It does so before it returns unless the resolver has to be asked. answer must not
// block, and owns its argument. Handle does not retain query.
func (s *Server) Handle(client netip.AddrPort, tcp bool, query []byte, answer func([]byte)) {
	q, refused := checkQuery(query, tcp)
	if refused != nil {
		s.metrics.query(tcp, refused.result)
		answer(q.refuse(refused))
		return
	}
	f := s.facts.Load()
	q.zone = f.zones.find(q.key.name)
	node := s.cfg.Peer(client.Addr())
	now := time.Now()

	s.mu.Lock()
	out := s.decide(&q, node, now, answer)
	s.mu.Unlock()

	if out.start != nil {
		go s.fly(out.start)
	}
	if out.reply.refuse == tooManyQueries && s.mayWarn(node, now) {
		s.cfg.Logger.Warn("a node sends too many DNS queries; the rest is refused", "client", client.Addr(),
			"fix", "find the program on that node; router_dns_queries_total counts the refused queries of all nodes")
	}
	if !out.pending {
		s.finish(&q, out.reply, answer)
	}
}

// reply is the outcome for one client: an answer of some age, or a refusal.
type reply struct {
	answer *answer
	age    time.Duration
	stale  bool
	refuse *refusal
	result result
}

// finish counts a client's outcome and sends it.
func (s *Server) finish(q *query, r reply, send func([]byte)) {
	s.metrics.query(q.tcp, r.result)
	q.zone.answered(r.result)
	if r.refuse != nil {
		send(q.refuse(r.refuse))
		return
	}
	send(q.render(r.answer, r.age, r.stale))
}

// outcome is the result of decide.
type outcome struct {
	reply   reply
	pending bool    // a flight answers the client
	start   *flight // to be started, for the client or to refresh the cache
}

// decide answers q from the cache, or adds the client to a flight, which it creates if there is none for
// the question. It is called with the lock.
func (s *Server) decide(q *query, node netip.Addr, now time.Time, send func([]byte)) (out outcome) {
	p := s.limiter.peer(node, now)
	if p == nil || !p.queries.take(now, 1, 0) {
		out.reply = reply{refuse: tooManyQueries, result: refused}
		return out
	}
	e := s.cache.get(q.key, now)
	if e != nil && e.fresh(now) {
		if e.popular(now) && s.flights[q.key] == nil && s.mayPrefetch(now) {
			out.start = s.newFlight(q, nil, now)
		}
		out.reply = reply{answer: e.answer, age: now.Sub(e.stored), result: e.result}
		return out
	}
	old := e.staleReply(now) // its answer is nil if there is none
	fl := s.flights[q.key]
	if old.answer != nil && (now.Before(e.recheck) || fl != nil && fl.slow) {
		out.reply = old
		return out
	}
	why := s.limiter.admitWaiting(p, s.waiting)
	if why == nil && fl == nil {
		if why = s.admitFlight(q, p, now); why == nil {
			if fl = s.newFlight(q, p, now); fl == nil {
				why = shuttingDown
			}
			out.start = fl
		}
	}
	if why != nil {
		out.reply = reply{refuse: why, result: why.result}
		if old.answer != nil {
			out.reply = old
		}
		return out
	}
	w := waiter{query: *q, peer: p, send: send, result: coalesced}
	w.query.question = slices.Clone(q.question)
	if out.start != nil {
		w.result = miss
	}
	fl.waiters = append(fl.waiters, w)
	p.waiting++
	s.waiting++
	out.pending = true
	return out
}

// Limits bound memory, connections and packets of a server. Zero means the default.
type Limits struct {
	CacheEntries int // answers in the cache. Default: 20,000
	CacheBytes   int // their size in memory. Default: 16 MiB
	// InFlight bounds the questions that the resolver is being asked, each of which needs an open
	// file, at worst four. Default: 256.
	InFlight int
	// PeerInFlight bounds those that one node caused. Default: a quarter of InFlight.
	PeerInFlight int
	Waiting      int // clients' queries that wait for the resolver. Default: 4,096
	PeerWaiting  int // those of one node. Default: a sixteenth of Waiting
	PeerRate     int // queries a second from one node, with a burst of two seconds. Default: 1,000
	PeerMissRate int // those that the cache cannot answer. Default: a quarter of PacketRate
	// PacketRate bounds the packets a second to the resolver, with a burst of a quarter of a second.
	// AWS drops all above 1,024 a second from one network interface, which the rest of the task
	// shares. Default: 800.
	PacketRate      int
	Connections     int // clients' TCP connections. Default: 512
	PeerConnections int // those of one node. Default: an eighth of Connections
}

func (l *Limits) setDefaults() {
	l.CacheEntries = cmp.Or(l.CacheEntries, 20_000)
	l.CacheBytes = cmp.Or(l.CacheBytes, 16<<20)
	l.InFlight = cmp.Or(l.InFlight, 256)
	l.PeerInFlight = cmp.Or(l.PeerInFlight, max(1, l.InFlight/4))
	l.Waiting = cmp.Or(l.Waiting, 4096)
	l.PeerWaiting = cmp.Or(l.PeerWaiting, max(1, l.Waiting/16))
	l.PeerRate = cmp.Or(l.PeerRate, 1000)
	l.PacketRate = cmp.Or(l.PacketRate, 800)
	l.PeerMissRate = cmp.Or(l.PeerMissRate, max(1, l.PacketRate/4))
	l.Connections = cmp.Or(l.Connections, 512)
	l.PeerConnections = cmp.Or(l.PeerConnections, max(1, l.Connections/8))
}
