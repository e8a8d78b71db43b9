package handover

import (
	"context"
	"net/netip"
	"slices"
	"time"
)

// Begin says to the others that this router drains, and reports how many of them will
// pass on what comes for its flows. From then on packets to clients take every way that
// may be right: a client accepts them from one router only, and until its own packets
// show which that is, the others' copies are lost on it.
func (r *Relay) Begin(ctx context.Context) (helpers int) {
	r.mu.Lock()
	r.draining = true
	r.mu.Unlock()
	if !r.cfg.Relays() {
		return 0
	}
	routes := r.cfg.Routes()
	from := r.ask(ctx, func(s State) bool { return s.Relays && s.Serves(routes) })
	if len(from) > 0 {
		r.active.Store(true)
	}
	return len(from)
}

// Announce repeats until ctx ends that this router drains, and then that it is gone.
func (r *Relay) Announce(ctx context.Context) {
	tick := time.NewTicker(announceEvery)
	defer tick.Stop()
	last := r.state()
	for {
		select {
		case <-tick.C:
			s := r.state()
			s.Answer = true // a new router may have come
			r.tell(s)
		case <-ctx.Done():
			last.Gone = true
			r.tell(last)
			return
		}
	}
}

func (r *Relay) tell(s State) {
	for _, c := range r.cfg.Companions() {
		r.cfg.Send(c.Addrs[0], encode(s))
	}
}

// Active reports whether packets to clients may have to take another way.
func (r *Relay) Active() bool { return r.active.Load() }

var forClientPrefix = []byte{kindForClient}

// Route says how a packet from behind this router gets to its client: itself, through
// other routers, or both.
func (r *Relay) Route(packet []byte) (direct bool, via []netip.Addr, prefix []byte) {
	src, client, ok := addresses(packet)
	if !ok {
		return false, nil, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if router, ok := r.clients[client]; ok {
		r.out.Inc()
		return false, []netip.Addr{router}, forClientPrefix
	}
	for addr, h := range r.heard {
		if h.state.Relays && !h.state.Draining && time.Since(h.at) < memory && contains(h.state.Routes, src) {
			via = append(via, addr)
		}
	}
	return true, via, forClientPrefix
}

// forFlow takes a client's packet that came to another router.
func (r *Relay) forFlow(from netip.Addr, packet []byte) {
	r.mu.Lock()
	h, ok := r.heard[from]
	ok = ok && r.draining && h.state.Relays
	r.mu.Unlock()
	if !ok {
		return
	}
	client, _, valid := addresses(packet)
	if !valid {
		return
	}
	// First, for the flow's answer may be out at once. The client's packets come by
	// way of the other router, so it accepts answers from there.
	r.mu.Lock()
	r.clients[client] = from
	r.mu.Unlock()
	if r.cfg.ToFlow(packet) {
		r.in.Inc()
		return
	}
	r.cfg.Send(from, slices.Concat([]byte{kindUnknown}, packet))
}

// addresses reads those of an IP packet.
func addresses(p []byte) (src, dst netip.Addr, ok bool) {
	switch {
	case len(p) >= 20 && p[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20])), true
	case len(p) >= 40 && p[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40])), true
	}
	return netip.Addr{}, netip.Addr{}, false
}
