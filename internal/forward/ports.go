package forward

import (
	"net/netip"
	"slices"
	"sync"
)

// mostPerPort bounds how many flows share a source port: the kernel looks through all
// sockets of a port for each datagram that arrives there.
const maxPerPort = 32

// sourcePorts knows the source ports that flows kept from their clients, as RFC 4787
// section 4.2 prefers: SIP, IKE and RADIUS may look at them. A port serves several flows
// as long as their targets differ. The kernel would let two flows share both, and give
// the answers for both to one of them, so this table must not.
type sourcePorts struct {
	reserved []uint16 // of this process's own listeners

	mu    sync.Mutex
	flows map[uint16]*udpFlow // the newest that has the port; udpFlow.older has the others
}

// claim takes fl's client's port for fl, which is to dial target, and reports whether it
// is free, and whether other flows have it too: then fl's socket must agree to share it.
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
	if n == 1 { // with more, the first shares already
		newest.sharePort()
	}
	return true, n > 0
}

// release gives the port of fl back, if it has one, after its socket was closed.
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

// sharePort lets other flows have this one's port. One whose socket is still being
// opened does not: then the other gets a port of the kernel's choice.
func (fl *udpFlow) sharePort() {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	if fl.fd >= 0 {
		sharePort(fl.fd, true)
	}
}
