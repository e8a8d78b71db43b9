package forward

import (
	"errors"
	"net/netip"

	"subnetrouter/internal/packet"
)

// verdict is the outcome of [Forwarder.check].
type verdict int

const (
	allowed verdict = iota
	denied          // the deny list forbids it; the client gets an ICMP error or a reset
	noRule          // no access rule allows it; dropped without an answer, as in the engine's filter
)

// check decides whether a new flow or an echo request is allowed, on whichever way its packet
// arrived: directly from its client, reassembled from fragments, delayed, or passed on by a
// peer router. It repeats, for the target that is dialed, the checks that the engine's filter
// and the packet hook make of a client's own packets.
func (f *Forwarder) check(protocol uint8, key flowKey) verdict {
	if f.Denied(netip.AddrPortFrom(targetOf(key.dst.Addr()), key.dst.Port())) {
		return denied
	}
	if !f.cfg.Allow(protocol, key.client.Addr(), key.dst) {
		return noRule
	}
	return allowed
}

var errForbidden = errors.New("the target is on the deny list")

// resolve returns the address to dial for a target. It fails if DenyDial forbids that address.
func (f *Forwarder) resolve(network string, target netip.AddrPort) (netip.AddrPort, error) {
	to, err := f.cfg.Resolve(network, target)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if f.cfg.DenyDial(to) {
		f.metrics.denied.Inc()
		return netip.AddrPort{}, errForbidden
	}
	return to, nil
}

// Recheck ends the open flows that the deny list or the access rules no longer allow, and
// returns their number. TCP clients get a reset. Call it after each change of either: nothing
// else checks open flows again.
func (f *Forwarder) Recheck() (ended int) {
	forbids := func(protocol uint8, key flowKey) bool {
		return f.cfg.Deny(netip.AddrPortFrom(targetOf(key.dst.Addr()), key.dst.Port())) ||
			!f.cfg.Allow(protocol, key.client.Addr(), key.dst)
	}
	// Allow is called without the table's lock, which packet delivery takes.
	for _, fl := range f.udp.all() {
		if forbids(packet.ProtoUDP, fl.key) {
			f.udp.close(fl, revoked)
			ended++
		}
	}
	for _, fl := range f.tcp.all() {
		if forbids(packet.ProtoTCP, fl.key) {
			fl.revoked.Store(true)
			fl.abort.Store(true)
			f.sched.ready(&fl.task)
			ended++
		}
	}
	if ended > 0 {
		f.log.Info("ended flows that are no longer allowed", "flows", ended)
	}
	return ended
}

func (t *udpTable) all() (all []*udpFlow) {
	each(&t.mu, t.flows, func(_ flowKey, fl *udpFlow) { all = append(all, fl) })
	return all
}

func (t *tcpTable) all() []*tcpFlow {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]*tcpFlow, 0, len(t.flows))
	for fl := range t.flows {
		all = append(all, fl)
	}
	return all
}
