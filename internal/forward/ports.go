package forward

import (
	"net/netip"
	"slices"
	"sync"
)

// maxPerPort bounds the flows that share a source port: the kernel searches all sockets of a
// port for each datagram that arrives there.
const maxPerPort = 32

// sourcePorts tracks the source ports that flows kept from their clients, as RFC 4787 section
// 4.2 recommends: SIP, IKE and RADIUS servers may check them. Flows share a port if their
// targets differ. The kernel would let two flows share port and target and deliver both flows'
// answers to one of them, so this table must prevent it.
type sourcePorts struct {
	reserved []uint16 // of this process's own listeners

	mu    sync.Mutex
	flows map[uint16]*udpFlow // the newest flow with the port, linked to the others by udpFlow.older
}

// assign gives fl its client's port, for a socket that dials target. It reports whether the
// port is free, and whether other flows share it; then fl's socket must allow sharing.
func (p *sourcePorts) assign(fl *udpFlow, target netip.AddrPort) (ok, shared bool) {
	port := fl.key.client.Port()
	if port == 0 || slices.Contains(p.reserved, port) {
		return false, false
	}
	p.mu.Lock()
	newest := p.flows[port]
	n := 0
	for other := newest; other != nil; other = other.older {
		if n++; n == maxPerPort || other.boundTarget == target {
			p.mu.Unlock()
			return false, false
		}
	}
	fl.boundTarget, fl.older = target, newest
	p.flows[port] = fl
	p.mu.Unlock()
	if n == 1 { // with more, the port is shared already
		newest.sharePort()
	}
	return true, n > 0
}

// release returns fl's port, if it has one. Call it after its socket is closed.
func (p *sourcePorts) release(fl *udpFlow) {
	if !fl.boundTarget.IsValid() {
		return
	}
	port := fl.key.client.Port()
	p.mu.Lock()
	defer p.mu.Unlock()
	newest := p.flows[port]
	if newest == fl {
		if fl.older == nil {
			delete(p.flows, port)
		} else {
			p.flows[port] = fl.older
		}
		return
	}
	for other := newest; other != nil; other = other.older {
		if other.older == fl {
			other.older = fl.older
			return
		}
	}
}

// sharePort lets other flows have this one's port. It does nothing while the socket is still
// being opened: then the other flow gets a port of the kernel's choice.
func (fl *udpFlow) sharePort() {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	if fl.fd >= 0 {
		sharePort(fl.fd, true)
	}
}
