package forward

import (
	"net/netip"
	"runtime/debug"
	"syscall"
	"time"
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

// RecomputeLimits derives the limits from the memory limit (GOMEMLIMIT, debug.SetMemoryLimit),
// and raises the limit of open files to the hard limit. Call it when the memory limit has
// changed. Open flows stay open.
func (f *Forwarder) RecomputeLimits() Limit {
	l := Limit{Flows: f.cfg.MaxFlows, FlowsPerPeer: f.cfg.MaxFlowsPerPeer, Files: raiseFiles()}
	const none = 1 << 62
	if m := debug.SetMemoryLimit(-1); m < none {
		l.Memory = m
	}
	if l.Flows == 0 {
		l.Flows = maxDefaultFlows
		if l.Memory > 0 { // half of it: the rest is for data in flight
			l.Flows = min(l.Flows, max(1, int(l.Memory/2/flowMemory)))
		}
	}
	// A flow is a socket. Without the reserve, flows could take the descriptors that the
	// connection to control and the health check need.
	if maxFlows := max(1, l.Files-ReservedFiles); l.Files > 0 && l.Flows > maxFlows {
		if f.cfg.MaxFlows > 0 && f.limit.Flows != maxFlows {
			f.log.Warn("ROUTER_MAX_FLOWS exceeds the limit of open files", "asked", l.Flows, "flows", maxFlows, "open_files", l.Files,
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
	f.memory.setMemory(l.Memory)
	f.metrics.limit.Set(float64(l.Flows))
	f.metrics.peerLimit.Set(float64(l.FlowsPerPeer))
	return l
}

// Limit returns the current limits.
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

// peer is a node of the tailnet that has flows. Its fields are guarded by Forwarder.peersMu.
type peer struct {
	addrs []netip.Addr // its keys in Forwarder.peers
	flows int
}

// reserve is admit, but evicts idle DNS flows if a limit is reached.
func (f *Forwarder) reserve(client netip.Addr) (*peer, bool) {
	p, ok := f.admit(client)
	if !ok && f.udp.evictIdleDNS(time.Now()) {
		p, ok = f.admit(client)
	}
	return p, ok
}

// admit counts a new flow against the limits. It returns false if the total limit is reached,
// or that of the client's peer, which thus cannot starve the others.
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

// addPeer returns the peer of an address that has no flows yet. It releases peersMu while it
// looks up the address's node.
func (f *Forwarder) addPeer(client netip.Addr) *peer {
	f.peersMu.Unlock()
	node := f.cfg.Peer(client)
	f.peersMu.Lock()
	p := f.peers[client] // another goroutine may have added it meanwhile
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

// removeIfUnused removes a peer that has no flows.
func (f *Forwarder) removeIfUnused(p *peer) {
	if p.flows > 0 {
		return
	}
	for _, addr := range p.addrs {
		delete(f.peers, addr)
	}
}

// release ends the reservation of a flow.
func (f *Forwarder) release(p *peer) {
	f.peersMu.Lock()
	defer f.peersMu.Unlock()
	f.reserved--
	p.flows--
	f.removeIfUnused(p)
}
