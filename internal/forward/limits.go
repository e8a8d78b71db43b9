package forward

import (
	"log/slog"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// flowMemory is the memory of a flow, including its socket in the kernel, rounded up
	// from the result of `make bench`.
	flowMemory = 16 << 10
	// ReservedFiles is the number of descriptors that are not for flows: some 40 for the
	// engine, the event loop and the log, plus the bounds of everything else that opens
	// files. A test in cmd/router adds these up.
	ReservedFiles = 256
	// perPeerPercent is the share of all flows that one node may have.
	perPeerPercent = 50
	// maxDefaultFlows keeps the default within the source ports of a Linux task.
	maxDefaultFlows = 100_000
)

// Limit holds the limits of a process and their causes.
type Limit struct {
	Flows, FlowsPerPeer int
	Memory              int64 // the Go runtime's soft limit in bytes; 0 for none
	Files               int   // open files; 0 if unknown
}

// limiter counts the flows of each peer, and keeps them within the limits.
type limiter struct {
	maxFlows, maxPerPeer int // of [Config]; 0 for the defaults
	reservedFiles        int // [ReservedFiles] and those of [Config]
	log                  *slog.Logger
	gauge, peerGauge     prometheus.Gauge
	memory               *bufferBudget // derived from the memory limit
	// node is [Config.Peer]. It is called without the lock.
	node func(client netip.Addr) netip.Addr
	// evictIdle ends the flows that have been idle since before a time and that nothing
	// would miss; it reports whether there were any. It is set before the first flow, and
	// called without the lock, since it releases reservations.
	evictIdle func(since time.Time) bool

	// mu guards everything below, and the fields of the peers. It is held for short
	// computations only: packet delivery takes it for each new flow.
	mu       sync.Mutex
	peers    map[netip.Addr]*peer // by each of their addresses that has flows
	reserved int                  // sum of all peers' flows
	limit    Limit
	closing  bool // no more flows
}

// newLimiter returns a limiter; a limit of 0 means the default.
func newLimiter(limit Limit, reservedFiles int, node func(netip.Addr) netip.Addr, memory *bufferBudget, m *metrics, log *slog.Logger) *limiter {
	l := &limiter{
		maxFlows: limit.Flows, maxPerPeer: limit.FlowsPerPeer, log: log, gauge: m.limit, peerGauge: m.peerLimit, memory: memory,
		reservedFiles: ReservedFiles + reservedFiles, node: node, evictIdle: func(time.Time) bool { return false }, peers: map[netip.Addr]*peer{},
	}
	l.recompute()
	return l
}

// recompute derives the limits from the process's own, as [Forwarder.RecomputeLimits] describes.
func (l *limiter) recompute() Limit {
	n := Limit{Flows: l.maxFlows, FlowsPerPeer: l.maxPerPeer, Files: raiseFiles()}
	const none = 1 << 62
	if m := debug.SetMemoryLimit(-1); m < none {
		n.Memory = m
	}
	l.memory.setMemory(n.Memory)
	if n.Flows == 0 {
		n.Flows = maxDefaultFlows
		if n.Memory > 0 { // half of it: the rest is for data in flight
			n.Flows = min(n.Flows, max(1, int(n.Memory/2/flowMemory)))
		}
	}
	// A flow is a socket. Without the reserve, flows could take the descriptors that the
	// connection to control and the health check need.
	if maxFlows := max(1, n.Files-l.reservedFiles); n.Files > 0 && n.Flows > maxFlows {
		if l.maxFlows > 0 && l.current().Flows != maxFlows {
			l.log.Warn("ROUTER_MAX_FLOWS exceeds the limit of open files", "asked", n.Flows, "flows", maxFlows, "open_files", n.Files,
				"fix", "raise the task's ulimits.nofile, or lower ROUTER_MAX_FLOWS")
		}
		n.Flows = maxFlows
	}
	if n.FlowsPerPeer == 0 {
		n.FlowsPerPeer = max(1, n.Flows*perPeerPercent/100)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.limit = n
	l.gauge.Set(float64(n.Flows))
	l.peerGauge.Set(float64(n.FlowsPerPeer))
	return n
}

func (l *limiter) current() Limit {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.limit
}

// close refuses all further flows.
func (l *limiter) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closing = true
}

// top returns the node with the most flows, by one of its addresses, and their number.
func (l *limiter) top() (client netip.Addr, flows int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for addr, p := range l.peers {
		if p.flows > flows {
			client, flows = addr, p.flows
		}
	}
	return client, flows
}

func raiseFiles() int {
	var files syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files) != nil {
		return 0
	}
	if files.Cur < files.Max {
		raised := syscall.Rlimit{Cur: files.Max, Max: files.Max}
		if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &raised) == nil {
			files = raised
		}
	}
	return int(min(files.Cur, 1<<30))
}

// peer is a node of the tailnet that has flows. Its fields other than the atomic ones are guarded by
// limiter.mu.
type peer struct {
	nodeKeys     // in limiter.peers
	flows    int // reservations that were not released; more than 0 outside admit
	// held is the sum of streamFlow.held of the node's flows, in bytes.
	held atomic.Int64
}

// reserve is admit, but evicts idle DNS flows if a limit is reached. Each reservation ends with
// one call of release.
func (l *limiter) reserve(client netip.Addr) (*peer, bool) {
	p, ok := l.admit(client)
	if !ok && l.evictIdle(time.Now()) {
		p, ok = l.admit(client)
	}
	return p, ok
}

// admit counts a new flow against the limits. It returns false if the total limit is reached,
// or that of the client's peer, which thus cannot starve the others.
func (l *limiter) admit(client netip.Addr) (*peer, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.peers[client]
	if p == nil {
		p = addNode(&l.mu, l.peers, l.node, client)
	}
	if l.closing || l.reserved >= l.limit.Flows || p.flows >= l.limit.FlowsPerPeer {
		l.removeIfUnused(p)
		return nil, false
	}
	p.flows++
	l.reserved++
	return p, true
}

// removeIfUnused removes a peer that has no flows.
func (l *limiter) removeIfUnused(p *peer) {
	if p.flows == 0 {
		removeNode(l.peers, p)
	}
}

// release ends the reservation of a flow.
func (l *limiter) release(p *peer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reserved--
	p.flows--
	l.removeIfUnused(p)
}
