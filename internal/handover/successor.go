package handover

import (
	"encoding/json"
	"net/netip"
	"slices"
	"time"

	"subnetrouter/internal/packet"
	"subnetrouter/internal/routes"
)

// This file is the successor's side of a hand-over.

// peerDrain is a drain of another router, as updateDrain describes.
type peerDrain struct {
	name             string         // the router's
	since, lastState time.Time      // its first announcement, and the router's last state of any kind
	deadline         time.Time      // its end: at most limit after since, and in the past once it has ended
	routes           []netip.Prefix // the routes that control gave the router during the drain or just before
	confirms         bool           // as State.Confirms
}

// handleState handles another router's state. Only Run calls it.
func (c *Coordinator) handleState(from netip.Addr, body []byte) {
	var s State
	if json.Unmarshal(body, &s) != nil {
		c.refuse(malformed)
		return
	}
	node := c.peers.Load().byAddr[from]
	if node == nil { // it has lost its tag since it sent the state
		c.refuse(stranger)
		return
	}
	now := time.Now()
	c.mu.Lock()
	if _, known := c.states[from]; known || len(c.states) < maxNodes {
		c.states[from] = receivedState{s, now}
	}
	close(c.stateRead)
	c.stateRead = make(chan struct{})
	log := c.updateDrain(node, s, now)
	c.mu.Unlock()
	log()
	if s.Answer {
		c.cfg.Send(from, encodeState(c.ownState()))
	}
}

// updateDrain updates the drain of a node by a state of that node:
//
//	none ─▶ draining: announced, while control gives the node routes, or within
//	                  lostRouteTTL after it took them; the drain covers only these routes
//	draining ─▶ ended: its end announced, or the deadline passed
//	draining or ended ─▶ none: no state for silentAfter, see [Coordinator.expire]
//
// Ended is a state of its own so that a late announcement does not begin another drain.
//
// The caller holds c.mu, and calls log after it has released it.
func (c *Coordinator) updateDrain(n *Node, s State, now time.Time) (log func()) {
	addr := n.addr()
	held := c.routesOf(n)
	d, known := c.drains[addr]
	log = func() {}
	switch {
	case s.Gone || !s.Draining:
		if known && now.Before(d.deadline) {
			took := now.Sub(d.since).Round(time.Millisecond).String()
			log = func() { c.cfg.Logger.Info("peer router has drained", "router", n.Name, "took", took) }
			d.deadline = now
		}
	case !s.Relays:
	case !known && (len(held) == 0 || len(c.drains) == maxNodes):
	case !known:
		d = peerDrain{name: n.Name, since: now, deadline: now.Add(max(c.cfg.MaxDrain, minDrainLimit))}
		known = true
		log = func() {
			c.cfg.Logger.Info("peer router is draining; relaying packets of its flows", "router", n.Name,
				"routes", routes.Strings(held))
		}
		fallthrough
	default:
		for _, p := range held {
			if !slices.Contains(d.routes, p) && len(d.routes) < maxDrainRoutes {
				d.routes = append(d.routes, p)
			}
		}
		d.confirms = s.Confirms
	}
	if known {
		d.lastState = now
		c.drains[addr] = d
	}
	c.updatePeerDraining(now)
	return log
}

// updatePeerDraining sets peerDraining. The caller holds c.mu.
func (c *Coordinator) updatePeerDraining(now time.Time) {
	draining := false
	for _, d := range c.drains {
		draining = draining || now.Before(d.deadline)
	}
	c.peerDraining.Store(draining)
}

// maxDrainRoutes bounds the routes of one drain.
const maxDrainRoutes = 1024

// expire removes the states and drains of silent routers, and clears peerDraining once all
// drains are over: while it is set, each packet costs a look-up of its flow.
func (c *Coordinator) expire(now time.Time) {
	var silent []peerDrain
	c.mu.Lock()
	for addr, d := range c.drains {
		if now.Sub(d.lastState) > silentAfter {
			delete(c.drains, addr)
			if now.Before(d.deadline) {
				silent = append(silent, d)
			}
		}
	}
	for addr, h := range c.states {
		if now.Sub(h.at) > silentAfter {
			delete(c.states, addr)
		}
	}
	c.updatePeerDraining(now)
	c.mu.Unlock()
	c.pending.expireTaken(now)
	for _, d := range silent {
		c.cfg.Logger.Info("draining peer router fell silent; no longer relaying packets to it", "router", d.name,
			"silent", now.Sub(d.lastState).Round(time.Millisecond).String(), "took", now.Sub(d.since).Round(time.Millisecond).String())
	}
}

// MayHaveFlow reports whether a packet without a flow here may belong to a flow of another
// router: whether a drain is under way.
func (c *Coordinator) MayHaveFlow() bool { return c.peerDraining.Load() }

// Relay relays a client's packet without a flow here to the draining router that may have the
// flow, and reports whether there is one. The packet is copied. A datagram comes back through
// [Config].DeliverUnclaimed unless the draining router takes it; a TCP segment does not, since
// the draining router resets a connection that it does not have.
func (c *Coordinator) Relay(raw []byte) bool {
	p, rest, ok := packet.ParseHeader(raw)
	if !ok || len(rest) > 0 || !c.cfg.CanRelay() {
		return false
	}
	to, found := c.findDrain(p.Dst)
	if !to.IsValid() {
		return false
	}
	c.relayedOut.Inc()
	message := slices.Concat([]byte{kindRelayed}, raw)
	// In the first seconds of a drain the draining router's netmap may not give the route to
	// this router yet. Segments have numbers then, too, so that they can be relayed again.
	if p.Protocol == packet.ProtoUDP || time.Since(found.since) < returnWithin {
		number := c.lastNumber.Add(1)
		message = appendNumber(message, number)
		c.addPending(number, to, p, found.confirms)
	}
	c.cfg.Send(to, message)
	return true
}

// findDrain returns the draining router that may have flows to a destination, and its drain:
// the router with the most specific route to it, and of several the one whose drain began
// last. It ignores a route that is less specific than this router's own, since its router had
// no flows to dst, and one that control has given to a third router since, to which the
// clients have moved. An invalid address means that there is none.
func (c *Coordinator) findDrain(dst netip.Addr) (addr netip.Addr, found peerDrain) {
	now := time.Now()
	holders, bits := c.peers.Load().holdersOf(dst)
	c.mu.Lock()
	defer c.mu.Unlock()
	bestBits := -1
	for a, d := range c.drains {
		if now.Sub(d.lastState) >= silentAfter || !now.Before(d.deadline) {
			continue
		}
		holds := slices.ContainsFunc(holders, func(n *Node) bool { return n.addr() == a })
		for _, p := range d.routes {
			switch {
			case !p.Contains(dst):
			case len(holders) == 0 && bits > p.Bits(): // this router's own is more specific
			case len(holders) > 0 && bits >= p.Bits() && !holds: // control has moved on
			case p.Bits() > bestBits || p.Bits() == bestBits && d.since.After(found.since):
				addr, found, bestBits = a, d, p.Bits()
			}
		}
	}
	return addr, found
}

// handleForClient sends a draining router's packet on to its client.
func (c *Coordinator) handleForClient(from *Node, raw []byte) {
	p, rest, ok := packet.ParseHeader(raw)
	if !ok || len(rest) > 0 {
		c.refuse(malformed)
		return
	}
	draining, _ := c.findDrain(p.Src)
	switch _, isDenied := routes.Denied(routes.Target(p.Src)); {
	case !c.MayHaveFlow() || !c.cfg.CanRelay():
		c.refuse(notNow)
	case draining != from.addr():
		c.refuse(noRoute)
	case isDenied:
		c.refuse(denied)
	default:
		c.relayedIn.Inc()
		c.cfg.SendToClient(p.Raw)
	}
}
