package forward

import (
	"errors"
	"net/netip"
)

// verdict is the outcome of [Forwarder.check].
type verdict int

const (
	allowed verdict = iota
	denied          // by the deny list, which the client is told
	noRule          // by the access rules, which answer nothing, as the engine's filter does
)

// check is the gate that every new flow passes, and each echo request, however its
// packet came: from its client, put together from fragments, held back for a while, or
// passed on by a peer router. It repeats the checks that the engine's filter and the
// packet hook make of a client's own packets, with the target that is really meant.
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

// resolve returns the address at which to dial a target, which must not be one that the
// target itself could not have been.
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
// returns how many there were. Clients of TCP see a reset. Call it after a change of
// either: an open flow is checked again only by Recheck.
func (f *Forwarder) Recheck() (ended int) {
	forbids := func(protocol uint8, key flowKey) bool {
		return f.cfg.Deny(netip.AddrPortFrom(targetOf(key.dst.Addr()), key.dst.Port())) ||
			!f.cfg.Allow(protocol, key.client.Addr(), key.dst)
	}
	// The rules are asked without a table's lock: packets wait for it.
	for _, fl := range f.udp.all() {
		if forbids(protoUDP, fl.key) {
			f.udp.close(fl, revoked)
			ended++
		}
	}
	for _, fl := range f.tcp.all() {
		if forbids(protoTCP, fl.key) {
			fl.revoked.Store(true)
			fl.abort.Store(true)
			f.sched.ready(&fl.task)
			ended++
		}
	}
	if ended > 0 {
		f.log.Info("flows ended that are no longer allowed", "flows", ended)
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
