package handover

import (
	"context"
	"net/netip"
	"slices"
	"time"
)

// This file is the side of the router that drains.

// BeginDrain announces that this router drains, and returns how many others claim to serve the
// same routes and to relay packets. The claim decides only in which order routes and flows
// end: a router takes part in a flow once control gives it the route.
func (r *Coordinator) BeginDrain(ctx context.Context) (helpers int) {
	routes := r.cfg.Routes()
	r.mu.Lock()
	r.draining = true
	r.served, r.before = routes, r.peers.Load()
	r.mu.Unlock()
	if !r.cfg.CanRelay() {
		return 0
	}
	helpers = r.ask(ctx, func(s State) bool { return s.Relays && s.Serves(routes) })
	if helpers > 0 {
		r.active.Store(true)
	}
	return helpers
}

// Succeeded reports whether control has given a route that this router served when its drain
// began to another online node with a tag of its own, or there was none to give.
func (r *Coordinator) Succeeded() bool {
	r.mu.Lock()
	served, before := r.served, r.before
	r.mu.Unlock()
	now := r.peers.Load()
	return len(served) == 0 || slices.ContainsFunc(served, func(p netip.Prefix) bool { return now.covers(p, before) })
}

// Announce repeats until ctx ends that this router drains, and then that it is gone.
func (r *Coordinator) Announce(ctx context.Context) {
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

func (r *Coordinator) tell(s State) {
	message := encode(s)
	for _, n := range r.peers.Load().nodes {
		if n.Online {
			r.cfg.Send(n.addr(), message)
		}
	}
}

// Active reports whether packets to clients may have to take another way.
func (r *Coordinator) Active() bool { return r.active.Load() }

var forClientPrefix = []byte{kindForClient}

// Route returns how a packet from behind this router gets to its client: directly, as the
// payload of a message to another router, or both. Until the client's own packets have
// come by way of the router that holds the route, the client may listen to either, and
// drops the copy of the other.
func (r *Coordinator) Route(packet []byte) (direct bool, via netip.Addr, prefix []byte) {
	p, _, ok := parsePacket(packet)
	if !ok {
		return false, netip.Addr{}, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	holders, _ := r.peers.Load().holdersOf(p.src)
	for _, n := range holders {
		addr := n.addr()
		if _, ok := r.moved[addr][p.dst]; ok {
			r.out.Inc()
			return false, addr, forClientPrefix
		}
		if h := r.heard[addr]; !via.IsValid() && h.state.Relays && !h.state.Draining && time.Since(h.at) < silentAfter {
			via = addr
		}
	}
	return true, via, forClientPrefix
}

// mostMoved bounds the clients that are remembered for one router. The answers to a client
// beyond it go both ways.
const mostMoved = 4096

// takeRelayed takes a client's packet that another router relayed.
func (r *Coordinator) takeRelayed(from *Node, body []byte) {
	p, number, ok := parsePacket(body)
	if !ok || len(number) != 0 && len(number) != numberSize {
		r.refuse(malformed)
		return
	}
	r.mu.Lock()
	draining, served := r.draining, r.served
	r.mu.Unlock()
	switch {
	case !draining || !r.cfg.CanRelay():
		r.refuse(notNow)
		return
	case !contains(served, p.dst):
		r.refuse(noRoute)
		return
	case !r.peers.Load().holds(from, p.dst):
		// Control may have told the sender and its clients before this router.
		r.refuse(noRoute)
		r.answer(from, kindWait, number)
		return
	}
	switch r.cfg.Deliver(p.raw) {
	case Delivered:
		r.in.Inc()
		r.noteMoved(from, p.src)
		r.answer(from, kindTaken, number)
	case Reset:
		r.in.Inc()
	case Unknown:
		r.cfg.Send(from.addr(), slices.Concat([]byte{kindUnknown}, body))
	default:
		r.refuse(denied)
	}
}

// answer sends an answer about a numbered packet.
func (r *Coordinator) answer(to *Node, kind byte, number []byte) {
	if len(number) > 0 {
		r.cfg.Send(to.addr(), numbered(kind, number))
	}
}

// noteMoved remembers that a client sends to another router, and so listens to it.
func (r *Coordinator) noteMoved(to *Node, client netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	clients := r.moved[to.addr()]
	if clients == nil {
		if len(r.moved) == mostNodes {
			return
		}
		clients = map[netip.Addr]struct{}{}
		r.moved[to.addr()] = clients
	}
	if len(clients) < mostMoved {
		clients[client] = struct{}{}
	}
}
