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

	mu   sync.Mutex
	uses map[uint16]*portUse // the newest use of the port, linked to the others by older
}

// portUse is a flow's use of a source port. The zero value uses none.
type portUse struct {
	port uint16
	// target is the dialed target while the port is assigned, else invalid. It does not
	// change once the flow is in its table.
	target netip.AddrPort
	// owner is the flow. It is called without a lock.
	owner interface{ sharePort() }

	older *portUse // guarded by sourcePorts.mu
}

// assign gives use a port for a socket of owner that dials target. It reports whether the port is
// free, and whether other flows share it; then the socket must allow sharing. An assigned port
// must be released.
func (p *sourcePorts) assign(use *portUse, owner interface{ sharePort() }, port uint16, target netip.AddrPort) (ok, shared bool) {
	if port == 0 || slices.Contains(p.reserved, port) {
		return false, false
	}
	p.mu.Lock()
	newest := p.uses[port]
	n := 0
	for other := newest; other != nil; other = other.older {
		if n++; n == maxPerPort || other.target == target {
			p.mu.Unlock()
			return false, false
		}
	}
	use.port, use.target, use.owner, use.older = port, target, owner, newest
	p.uses[port] = use
	p.mu.Unlock()
	if n == 1 { // with more, the port is shared already
		newest.owner.sharePort()
	}
	return true, n > 0
}

// release returns a port, if there is one. Call it after the socket is closed.
func (p *sourcePorts) release(use *portUse) {
	if !use.target.IsValid() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	newest := p.uses[use.port]
	if newest == use {
		if use.older == nil {
			delete(p.uses, use.port)
		} else {
			p.uses[use.port] = use.older
		}
		return
	}
	for other := newest; other != nil; other = other.older {
		if other.older == use {
			other.older = use.older
			return
		}
	}
}
