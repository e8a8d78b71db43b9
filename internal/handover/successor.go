package handover

import (
	"encoding/json"
	"net/netip"
	"slices"
	"time"

	"subnetrouter/internal/routes"
)

// This file is the side of the router that takes over from one that drains.

// drainer is another router that drains.
type drainer struct {
	name         string
	since, heard time.Time
	until        time.Time      // when it must have ended
	routes       []netip.Prefix // control gave it these while it drained
	confirms     bool
}

// hear takes another router's state.
func (r *Coordinator) hear(from netip.Addr, body []byte) {
	var s State
	if json.Unmarshal(body, &s) != nil {
		r.refuse(malformed)
		return
	}
	node := r.peers.Load().byAddr[from]
	if node == nil { // it lost its tag meanwhile
		r.refuse(stranger)
		return
	}
	now := time.Now()
	r.mu.Lock()
	if _, known := r.heard[from]; known || len(r.heard) < mostNodes {
		r.heard[from] = heard{s, now}
	}
	close(r.news)
	r.news = make(chan struct{})
	log := r.noteDrainer(node, s, now)
	r.mu.Unlock()
	log()
	if s.Answer {
		r.cfg.Send(from, encode(r.state()))
	}
}

// noteDrainer remembers who drains. A drain begins while control gives the node routes or
// just after it took them, covers only those, and ends when its router announces the end,
// after r.cfg.Longest, or by silence. One that has ended is kept until its router is silent,
// so that it does not begin again by its next announcement. The caller holds r.mu, and
// calls log when it no longer does.
func (r *Coordinator) noteDrainer(n *Node, s State, now time.Time) (log func()) {
	addr := n.addr()
	held := r.routesOf(n)
	d, known := r.drainers[addr]
	log = func() {}
	switch {
	case s.Gone || !s.Draining:
		if known && now.Before(d.until) {
			took := now.Sub(d.since).Round(time.Millisecond).String()
			log = func() { r.cfg.Logger.Info("the other router has drained", "router", n.Name, "took", took) }
			d.until = now
		}
	case !s.Relays:
	case !known && (len(held) == 0 || len(r.drainers) == mostNodes):
	case !known:
		d = drainer{name: n.Name, since: now, until: now.Add(max(r.cfg.MaxDrain, leastDrain))}
		known = true
		log = func() {
			r.cfg.Logger.Info("another router drains; relaying packets of its flows", "router", n.Name, "routes", routes.Strings(held))
		}
		fallthrough
	default:
		for _, p := range held {
			if !slices.Contains(d.routes, p) && len(d.routes) < mostRoutes {
				d.routes = append(d.routes, p)
			}
		}
		d.confirms = s.Confirms
	}
	if known {
		d.heard = now
		r.drainers[addr] = d
	}
	r.countDrains(now)
	return log
}

// countDrains notes whether a drain is under way. The caller holds r.mu.
func (r *Coordinator) countDrains(now time.Time) {
	foreign := false
	for _, d := range r.drainers {
		foreign = foreign || now.Before(d.until)
	}
	r.foreign.Store(foreign)
}

// mostRoutes bounds the routes that are remembered of one drain.
const mostRoutes = 1024

// forget drops the states and drains of silent routers, and ends drains that are over: while
// there is one, each packet costs a look whether it is of a flow here.
func (r *Coordinator) forget(now time.Time) {
	var silent []drainer
	r.mu.Lock()
	for addr, d := range r.drainers {
		if now.Sub(d.heard) > silentAfter {
			delete(r.drainers, addr)
			if now.Before(d.until) {
				silent = append(silent, d)
			}
		}
	}
	for addr, h := range r.heard {
		if now.Sub(h.at) > silentAfter {
			delete(r.heard, addr)
		}
	}
	r.countDrains(now)
	r.mu.Unlock()
	r.returned.forgetTaken(now)
	for _, d := range silent {
		r.cfg.Logger.Info("a router that drains fell silent; no longer relaying packets to it", "router", d.name,
			"silent", now.Sub(d.heard).Round(time.Millisecond).String(), "took", now.Sub(d.since).Round(time.Millisecond).String())
	}
}

// MayHaveFlow reports whether a packet of no flow here may be of another router's.
func (r *Coordinator) MayHaveFlow() bool { return r.foreign.Load() }

// Relay relays a client's packet that is of no flow here, and reports whether it did. A
// datagram comes back to [Config.Unclaimed] unless the draining router has its flow; a
// segment of TCP does not, as that router resets its unknown connections itself.
func (r *Coordinator) Relay(packet []byte) bool {
	p, rest, ok := parsePacket(packet)
	if !ok || len(rest) > 0 || !r.cfg.CanRelay() {
		return false
	}
	to, found := r.drainerOf(p.dst)
	if !to.IsValid() {
		return false
	}
	r.out.Inc()
	message := slices.Concat([]byte{kindRelayed}, packet)
	// At the beginning the draining router may have yet to learn from control that this
	// one holds the route: then a segment is relayed again, too.
	if p.udp || time.Since(found.since) < returnWithin {
		number := r.number.Add(1)
		message = appendNumber(message, number)
		r.await(number, to, p, found.confirms)
	}
	r.cfg.Send(to, message)
	return true
}

// drainerOf finds the draining router that may have flows to a destination: the one with
// the most specific route to it, and of several the last to begin. A route that is less
// specific than this router's own gives no flows, and one that control has given to a third
// router since has none left here. An invalid address is none.
func (r *Coordinator) drainerOf(dst netip.Addr) (addr netip.Addr, found drainer) {
	now := time.Now()
	holders, bits := r.peers.Load().holdersOf(dst)
	r.mu.Lock()
	defer r.mu.Unlock()
	most := -1
	for a, d := range r.drainers {
		if now.Sub(d.heard) >= silentAfter || !now.Before(d.until) {
			continue
		}
		holds := slices.ContainsFunc(holders, func(n *Node) bool { return n.addr() == a })
		for _, p := range d.routes {
			switch {
			case !p.Contains(dst):
			case len(holders) == 0 && bits > p.Bits(): // this router's own is more specific
			case len(holders) > 0 && bits >= p.Bits() && !holds: // control has moved on
			case p.Bits() > most || p.Bits() == most && d.since.After(found.since):
				addr, found, most = a, d, p.Bits()
			}
		}
	}
	return addr, found
}

// takeForClient takes a draining router's packet to a client.
func (r *Coordinator) takeForClient(from *Node, packet []byte) {
	p, rest, ok := parsePacket(packet)
	if !ok || len(rest) > 0 {
		r.refuse(malformed)
		return
	}
	drains, _ := r.drainerOf(p.src)
	switch _, never := routes.Denied(routes.Target(p.src)); {
	case !r.MayHaveFlow() || !r.cfg.CanRelay():
		r.refuse(notNow)
	case drains != from.addr():
		r.refuse(noRoute)
	case never:
		r.refuse(denied)
	default:
		r.in.Inc()
		r.cfg.SendToClient(p.raw)
	}
}
