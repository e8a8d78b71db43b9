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
func (r *Relay) hear(from netip.Addr, body []byte) {
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
	r.noteDrainer(node, s, now)
	r.mu.Unlock()
	if s.Answer {
		r.cfg.Send(from, encode(r.state()))
	}
}

// noteDrainer remembers who drains. A drain begins while control gives the node routes or
// just after it took them, covers only those, and ends when its router announces the end,
// after r.cfg.Longest, or by silence.
// The caller holds r.mu.
func (r *Relay) noteDrainer(n *Node, s State, now time.Time) {
	addr := n.addr()
	held := r.routesOf(n)
	d, known := r.drainers[addr]
	switch {
	case s.Gone || !s.Draining:
		if known {
			delete(r.drainers, addr)
			r.cfg.Logger.Info("the other router has drained", "router", n.Name, "took", now.Sub(d.since).Round(time.Millisecond).String())
		}
	case !s.Relays:
	case known && now.After(d.until):
		delete(r.drainers, addr)
	case known || len(held) > 0 && len(r.drainers) < mostNodes:
		if !known {
			d = drainer{name: n.Name, since: now, until: now.Add(max(r.cfg.Longest, leastDrain))}
			r.cfg.Logger.Info("another router drains; relaying packets of its flows", "router", n.Name, "routes", routes.Strings(held))
		}
		for _, p := range held {
			if !slices.Contains(d.routes, p) && len(d.routes) < mostRoutes {
				d.routes = append(d.routes, p)
			}
		}
		d.heard, d.confirms = now, s.Confirms
		r.drainers[addr] = d
	}
	r.foreign.Store(len(r.drainers) > 0)
}

// mostRoutes bounds the routes that are remembered of one drain.
const mostRoutes = 1024

// forget drops the states and drains of silent routers, and drains that are over: while
// there is one, each packet costs a look whether it is of a flow here.
func (r *Relay) forget(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for addr, d := range r.drainers {
		if now.Sub(d.heard) > silentAfter || now.After(d.until) {
			delete(r.drainers, addr)
			r.cfg.Logger.Info("no longer relaying packets to a router that drains", "router", d.name,
				"silent", now.Sub(d.heard).Round(time.Millisecond).String(), "took", now.Sub(d.since).Round(time.Millisecond).String())
		}
	}
	for addr, h := range r.heard {
		if now.Sub(h.at) > silentAfter {
			delete(r.heard, addr)
		}
	}
	r.foreign.Store(len(r.drainers) > 0)
}

// Elsewhere reports whether a packet of no flow here may be of another router's.
func (r *Relay) Elsewhere() bool { return r.foreign.Load() }

// Take relays a client's packet that is of no flow here, and reports whether it did. A
// datagram comes back to [Config.Unclaimed] unless the draining router has its flow; a
// segment of TCP does not, as that router resets its unknown connections itself.
func (r *Relay) Take(packet []byte) bool {
	p, rest, ok := parsePacket(packet)
	if !ok || len(rest) > 0 {
		return false
	}
	to, found := r.drainerOf(p.dst)
	if !to.IsValid() {
		return false
	}
	r.out.Inc()
	message := slices.Concat([]byte{kindRelayed}, packet)
	if p.udp {
		number := r.number.Add(1)
		message = appendNumber(message, number)
		r.await(number, to, p, found.confirms)
	}
	r.cfg.Send(to, message)
	return true
}

// drainerOf finds the draining router that may have flows to a destination: the one with
// the most specific route to it, and of several the last to begin. There is none once
// control has given the route to a third router. An invalid address is none.
func (r *Relay) drainerOf(dst netip.Addr) (addr netip.Addr, found drainer) {
	now := time.Now()
	holders := r.peers.Load().holdersOf(dst)
	r.mu.Lock()
	defer r.mu.Unlock()
	most := -1
	for a, d := range r.drainers {
		movedOn := len(holders) > 0 && !slices.ContainsFunc(holders, func(n *Node) bool { return n.addr() == a })
		if movedOn || now.Sub(d.heard) >= silentAfter || !now.Before(d.until) {
			continue
		}
		for _, p := range d.routes {
			if p.Contains(dst) && (p.Bits() > most || p.Bits() == most && d.since.After(found.since)) {
				addr, found, most = a, d, p.Bits()
			}
		}
	}
	return addr, found
}

// takeForClient takes a draining router's packet to a client.
func (r *Relay) takeForClient(from *Node, packet []byte) {
	p, rest, ok := parsePacket(packet)
	if !ok || len(rest) > 0 {
		r.refuse(malformed)
		return
	}
	r.mu.Lock()
	d, known := r.drainers[from.addr()]
	r.mu.Unlock()
	switch _, never := routes.Denied(routes.Target(p.src)); {
	case !known || time.Now().After(d.until):
		r.refuse(notNow)
	case !contains(d.routes, p.src):
		r.refuse(noRoute)
	case never:
		r.refuse(denied)
	default:
		r.in.Inc()
		r.cfg.ToClient(p.raw)
	}
}
