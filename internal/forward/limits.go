package forward

import (
	"net/netip"
	"runtime/debug"
	"syscall"
)

// What a flow costs, with its socket in the kernel, rounded up from what
// `make bench` measures; and what the router needs besides.
const (
	flowMemory   = 24 << 10
	reservedFD   = 256
	perPeerShare = 50 // per cent of all flows
	// mostFlows keeps the default within what a Linux task has source ports for.
	mostFlows = 100_000
)

// Limit is what a process can carry.
type Limit struct {
	Flows  int
	Memory int64 // the Go runtime's soft limit in bytes; 0 is none
	Files  uint64
}

// Limits raises the limit of open files to what the process may have, and says
// how many flows fit into files and memory (GOMEMLIMIT).
func Limits() Limit {
	var l Limit
	var files syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files) == nil {
		if files.Cur < files.Max {
			raised := syscall.Rlimit{Cur: files.Max, Max: files.Max}
			if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &raised) == nil {
				files = raised
			}
		}
		l.Files = uint64(files.Cur)
	}
	l.Flows = mostFlows
	if l.Files > 0 {
		l.Flows = min(l.Flows, max(1, int(min(l.Files, 1<<30))-reservedFD))
	}
	const none = 1 << 62
	if m := debug.SetMemoryLimit(-1); m < none {
		l.Memory = m
		// Half of it: the rest is for what moves.
		l.Flows = min(l.Flows, max(1, int(m/2/flowMemory)))
	}
	return l
}

// peer is a client of the tailnet, by one of its addresses, while it has flows.
type peer struct {
	addr  netip.Addr
	flows int
}

// admit takes a place for a new flow, or says that there is none: past the limit
// of all, or of this peer, who thus cannot starve the others.
func (f *Forwarder) admit(client netip.Addr) (*peer, bool) {
	f.peersMu.Lock()
	defer f.peersMu.Unlock()
	p := f.peers[client]
	if f.taken >= f.cfg.MaxFlows || p != nil && p.flows >= f.cfg.MaxFlowsPerPeer {
		return nil, false
	}
	if p == nil {
		p = &peer{addr: client}
		f.peers[client] = p
	}
	p.flows++
	f.taken++
	return p, true
}

// leave gives the place back.
func (f *Forwarder) leave(p *peer) {
	f.peersMu.Lock()
	defer f.peersMu.Unlock()
	f.taken--
	if p.flows--; p.flows == 0 {
		delete(f.peers, p.addr)
	}
}
