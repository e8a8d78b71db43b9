package forward

import (
	"net/netip"
	"runtime/debug"
	"syscall"
	"time"
)

// What a flow costs, with its socket in the kernel, rounded up from what
// `make bench` measures; and what the router needs besides.
const (
	flowMemory = 16 << 10
	// ReservedFiles is how many descriptors are not for flows: some 40 for the engine,
	// the event loop and the log, and the bounds of what else opens any. A test of the
	// router adds these up.
	ReservedFiles = 256
	// Per cent of all flows that one node may have.
	perPeerPercent = 50
	// mostFlows keeps the default within what a Linux task has source ports for.
	maxDefaultFlows = 100_000
)

// Limit is what a process can carry, and why.
type Limit struct {
	Flows, FlowsPerPeer int
	Memory              int64 // the Go runtime's soft limit in bytes; 0 is none
	Files               int   // open files; 0 is unknown
}

// RecomputeLimits derives the limits again, as they are to be after the memory limit
// (GOMEMLIMIT, debug.SetMemoryLimit) changed, and raises the limit of open files
// to what the process may have. Flows that are open stay.
func (f *Forwarder) RecomputeLimits() Limit {
	l := Limit{Flows: f.cfg.MaxFlows, FlowsPerPeer: f.cfg.MaxFlowsPerPeer, Files: raiseFiles()}
	const none = 1 << 62
	if m := debug.SetMemoryLimit(-1); m < none {
		l.Memory = m
	}
	if l.Flows == 0 {
		l.Flows = maxDefaultFlows
		if l.Memory > 0 { // half of it: the rest is for what moves
			l.Flows = min(l.Flows, max(1, int(l.Memory/2/flowMemory)))
		}
	}
	// A flow is a socket. One too many would cost the router its connection to control,
	// and its health check.
	if maxFlows := max(1, l.Files-ReservedFiles); l.Files > 0 && l.Flows > maxFlows {
		if f.cfg.MaxFlows > 0 && f.limit.Flows != maxFlows {
			f.log.Warn("ROUTER_MAX_FLOWS is more than the open files allow", "asked", l.Flows, "flows", maxFlows, "open_files", l.Files,
				"fix", "raise the task's ulimits.nofile, or lower ROUTER_MAX_FLOWS")
		}
		l.Flows = maxFlows
	}
	if l.FlowsPerPeer == 0 {
		l.FlowsPerPeer = max(1, l.Flows*perPeerPercent/100)
	}
	f.peersMu.Lock()
	defer f.peersMu.Unlock()
	f.limit = l
	f.metrics.limit.Set(float64(l.Flows))
	f.metrics.peerLimit.Set(float64(l.FlowsPerPeer))
	return l
}

// Limit is what is in force.
func (f *Forwarder) Limit() Limit {
	f.peersMu.Lock()
	defer f.peersMu.Unlock()
	return f.limit
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

// peer is a node of the tailnet while it has flows.
type peer struct {
	addrs []netip.Addr // under which it is found
	flows int
}

// place is admit, before which what only rests has to go.
func (f *Forwarder) reserve(client netip.Addr) (*peer, bool) {
	p, ok := f.admit(client)
	if !ok && f.udp.evictIdleDNS(time.Now()) {
		p, ok = f.admit(client)
	}
	return p, ok
}

// admit takes a place for a new flow, or says that there is none: past the limit
// of all, or of this peer, who thus cannot starve the others.
func (f *Forwarder) admit(client netip.Addr) (*peer, bool) {
	f.peersMu.Lock()
	defer f.peersMu.Unlock()
	p := f.peers[client]
	if p == nil {
		p = f.addPeer(client)
	}
	if f.closing || f.reserved >= f.limit.Flows || p.flows >= f.limit.FlowsPerPeer {
		f.removeIfUnused(p)
		return nil, false
	}
	p.flows++
	f.reserved++
	return p, true
}

// meet finds the peer of an address that has no flows yet. It lets go of peersMu
// while it asks.
func (f *Forwarder) addPeer(client netip.Addr) *peer {
	f.peersMu.Unlock()
	node := f.cfg.Peer(client)
	f.peersMu.Lock()
	p := f.peers[client] // it may have come meanwhile
	if p == nil {
		p = f.peers[node]
	}
	if p == nil {
		p = &peer{}
	}
	for _, addr := range []netip.Addr{client, node} {
		if f.peers[addr] == nil {
			f.peers[addr] = p
			p.addrs = append(p.addrs, addr)
		}
	}
	return p
}

// forget drops a peer without flows.
func (f *Forwarder) removeIfUnused(p *peer) {
	if p.flows > 0 {
		return
	}
	for _, addr := range p.addrs {
		delete(f.peers, addr)
	}
}

// Where nobody limits memory, this much may wait in the buffers of TCP.
const defaultBuffers = 256 << 20

// shareBuffers is how much a new TCP flow may let wait in each direction: its share
// of a quarter of the memory, so that targets and clients that stop reading cannot
// fill it all, whatever their number.
func (f *Forwarder) bufferShare() (receive, send int64) {
	f.peersMu.Lock()
	flows, memory := int64(f.reserved), f.limit.Memory
	f.peersMu.Unlock()
	budget := int64(defaultBuffers)
	if memory > 0 {
		budget = memory / 4
	}
	const minShare = 64 << 10
	share := max(minShare, budget/2/max(flows, 1))
	return min(receiveBuffer, share), min(sendBuffer, share)
}

// leave gives the place back.
func (f *Forwarder) release(p *peer) {
	f.peersMu.Lock()
	defer f.peersMu.Unlock()
	f.reserved--
	p.flows--
	f.removeIfUnused(p)
}
