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
	front    func(protocol Protocol, target netip.AddrPort) netip.AddrPort

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

// destination is the address behind the router that a flow reaches. A flow looks it up once: that of a served port
// changes with a name, and only the admitted address may be dialed.
type destination struct {
	addr   netip.AddrPort // zero while that of a served port is unknown
	served bool           // as [Config.Served]: it needs no Resolve, and no deny list applies
	front  netip.AddrPort // dialed in place of addr, if it is valid: see [Config.Front]
}

// destination returns the destination now of flows to dst, whose target is given.
func (r *rules) destination(p Protocol, dst, target netip.AddrPort) destination {
	if p != ICMP {
		if to, ok := r.servedAt(p, dst); ok {
			return destination{to, true, r.front(p, dst)}
		}
	}
	return destination{addr: target}
}

// open decides whether a new flow or an echo request is allowed, and by which rule of Admit, on
// whichever way its packet arrived: directly from its client, reassembled from fragments, delayed, or
// passed on by a peer router.
func (r *rules) open(number uint8, key flowKey) (to destination, rule string, v verdict) {
	protocol, ok := protocolOf(number)
	if to = (destination{addr: key.target()}); ok {
		to = r.destination(protocol, key.dst, key.target())
	}
	if v := r.judge(number, key, to.served); v != allowed {
		return to, "", v
	}
	a := r.admit(number, key.client, to.addr)
	if a.Refused {
		r.reject(RefusedByAdmit, number, key.client, key.dst)
		return to, a.Rule, denied
	}
	return to, a.Rule, allowed
}

// check decides whether a packet is allowed that opens no flow. It repeats, for the target that is
// dialed, the checks that the engine's filter and the packet hook make of a client's own packets. number
// is the IP protocol number.
func (r *rules) check(number uint8, key flowKey) verdict {
	return r.judge(number, key, r.serves(number, key))
}

// judge is check for a packet whose destination is a served port, or not.
func (r *rules) judge(number uint8, key flowKey, served bool) verdict {
	if !served && r.denies(key.target()) {
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
	protocol, ok := protocolOf(number)
	return ok && r.destination(protocol, key.dst, key.target()).served
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
func (r *rules) permit(f *record) bool {
	number, key := f.protocol.number(), f.key
	return (f.to.served || !r.deny(f.target)) && r.allow(number, key.client.Addr(), key.dst) &&
		r.stillAdmits(number, key.client.Addr(), f.to.addr)
}

var errForbidden = errors.New("the target is on the deny list")

// dialAddr returns the address to dial for a destination. It fails if DenyDial forbids that address, or
// if the address of a served port is unknown.
func (r *rules) dialAddr(p Protocol, to destination) (netip.AddrPort, error) {
	switch {
	case to.served && !to.addr.IsValid():
		return netip.AddrPort{}, unix.EHOSTUNREACH
	case to.front.IsValid():
		return to.front, nil
	case to.served:
		return to.addr, nil
	}
	addr, err := r.resolve(p.String(), to.addr)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if r.denyDial(addr) {
		r.denied.Inc()
		return netip.AddrPort{}, errForbidden
	}
	return addr, nil
}
