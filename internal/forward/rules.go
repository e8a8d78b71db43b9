package forward

import (
	"errors"
	"net/netip"

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

	admit       func(protocol uint8, client, target netip.AddrPort) Admission
	stillAdmits func(protocol uint8, client netip.Addr, target netip.AddrPort) bool

	denied prometheus.Counter // packets and dials that the deny list forbade
	// reject reports to a client's node why its flow is refused. It never waits.
	reject func(why Refusal, number uint8, client, dst netip.AddrPort)
}

// verdict is the outcome of [rules.check] and [rules.open].
type verdict int

const (
	allowed verdict = iota
	denied          // the deny list or Admit forbids it; the client gets an ICMP error or a reset
	noRule          // no access rule allows it; dropped without an answer, as in the engine's filter
)

// open decides whether a new flow or an echo request is allowed, and by which rule of Admit, on
// whichever way its packet arrived: directly from its client, reassembled from fragments, delayed, or
// passed on by a peer router.
func (r *rules) open(number uint8, key flowKey) (rule string, v verdict) {
	if v := r.check(number, key); v != allowed {
		return "", v
	}
	a := r.admit(number, key.client, r.reached(number, key))
	if a.Refused {
		r.reject(RefusedByAdmit, number, key.client, key.dst)
		return a.Rule, denied
	}
	return a.Rule, allowed
}

// check decides whether a packet is allowed that opens no flow. It repeats, for the target that is
// dialed, the checks that the engine's filter and the packet hook make of a client's own packets. number
// is the IP protocol number.
func (r *rules) check(number uint8, key flowKey) verdict {
	if !r.serves(number, key) && r.denies(key.target()) {
		r.reject(RefusedByDenyList, number, key.client, key.dst)
		return denied
	}
	if !r.allow(number, key.client.Addr(), key.dst) {
		return noRule
	}
	return allowed
}

// serves reports whether a flow's destination is a served port of the node's own addresses.
func (r *rules) serves(number uint8, key flowKey) bool {
	_, ok := r.serving(number, key)
	return ok
}

// serving returns the address to dial for a served port.
func (r *rules) serving(number uint8, key flowKey) (to netip.AddrPort, ok bool) {
	protocol, ok := protocolOf(number)
	if !ok || protocol == ICMP {
		return netip.AddrPort{}, false
	}
	return r.servedAt(protocol, key.dst)
}

// reached returns the address behind the router that a flow reaches: for a served port, the one that is
// dialed for it, or the zero address while that is unknown.
func (r *rules) reached(number uint8, key flowKey) netip.AddrPort {
	if to, ok := r.serving(number, key); ok {
		return to
	}
	return key.target()
}

// denies reports whether target must never be reached, and counts it if so.
func (r *rules) denies(target netip.AddrPort) bool {
	if !r.deny(target) {
		return false
	}
	r.denied.Inc()
	return true
}

// permit reports whether a flow that is open may stay. It counts nothing.
func (r *rules) permit(number uint8, key flowKey) bool {
	return (r.serves(number, key) || !r.deny(key.target())) && r.allow(number, key.client.Addr(), key.dst) &&
		r.stillAdmits(number, key.client.Addr(), r.reached(number, key))
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
