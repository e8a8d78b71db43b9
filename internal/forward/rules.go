package forward

import (
	"errors"
	"net/netip"

	"subnetrouter/internal/packet"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// rules decide which targets flows may reach, and by which address. The functions are those of
// [Config] of the same names; all are set, and may be called without and within a delivery.
type rules struct {
	resolve  func(network string, target netip.AddrPort) (netip.AddrPort, error)
	deny     func(target netip.AddrPort) bool
	denyDial func(target netip.AddrPort) bool
	allow    func(protocol uint8, client netip.Addr, dst netip.AddrPort) bool
	servedAt func(protocol Protocol, target netip.AddrPort) (to netip.AddrPort, ok bool)

	denied prometheus.Counter // packets and dials that the deny list forbade
	// reject reports to a client's node that the deny list has its flow's destination. It
	// never waits.
	reject func(number uint8, client, dst netip.AddrPort)
}

// verdict is the outcome of [rules.check].
type verdict int

const (
	allowed verdict = iota
	denied          // the deny list forbids it; the client gets an ICMP error or a reset
	noRule          // no access rule allows it; dropped without an answer, as in the engine's filter
)

// check decides whether a new flow or an echo request is allowed, on whichever way its packet
// arrived: directly from its client, reassembled from fragments, delayed, or passed on by a
// peer router. It repeats, for the target that is dialed, the checks that the engine's filter
// and the packet hook make of a client's own packets. number is the IP protocol number.
func (r *rules) check(number uint8, key flowKey) verdict {
	if !r.serves(number, key) && r.denies(key.target()) {
		r.reject(number, key.client, key.dst)
		return denied
	}
	if !r.allow(number, key.client.Addr(), key.dst) {
		return noRule
	}
	return allowed
}

// serves reports whether a flow's destination is a served port of the node's own addresses.
func (r *rules) serves(number uint8, key flowKey) bool {
	protocol := TCP
	switch number {
	case packet.ProtoTCP:
	case packet.ProtoUDP:
		protocol = UDP
	default:
		return false
	}
	_, ok := r.servedAt(protocol, key.dst)
	return ok
}

// denies reports whether target must never be reached, and counts it if so.
func (r *rules) denies(target netip.AddrPort) bool {
	if !r.deny(target) {
		return false
	}
	r.denied.Inc()
	return true
}

// permit is check for a flow that is open already: it counts nothing.
func (r *rules) permit(number uint8, key flowKey) bool {
	return (r.serves(number, key) || !r.deny(key.target())) && r.allow(number, key.client.Addr(), key.dst)
}

var errForbidden = errors.New("the target is on the deny list")

// dialAddr returns the address to dial for a target. It fails if DenyDial forbids that address, or
// if the target is served and the address for it is unknown.
func (r *rules) dialAddr(p Protocol, target netip.AddrPort) (netip.AddrPort, error) {
	if to, ok := r.servedAt(p, target); ok && !to.IsValid() {
		return netip.AddrPort{}, unix.EHOSTUNREACH
	} else if ok {
		return to, nil
	}
	to, err := r.resolve(p.String(), target)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if r.denyDial(to) {
		r.denied.Inc()
		return netip.AddrPort{}, errForbidden
	}
	return to, nil
}
