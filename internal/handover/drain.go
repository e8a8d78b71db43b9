package handover

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"subnetrouter/internal/packet"
)

// This file is the draining router's side of a hand-over.

// BeginDrain announces that this router drains, and returns the number of helpers: routers
// that claim to serve the same routes and to relay packets. The claim decides only whether
// flows end before or after the routes are withdrawn: a router relays packets of a flow once
// control gives it the route. There are none for a router that serves no routes: control gives
// nothing to another one.
//
// BeginDrain is called before the routes are withdrawn, so that servedRoutes and servedPeers
// describe the router as its clients know it.
func (c *Coordinator) BeginDrain(ctx context.Context) (helpers int) {
	routes := c.cfg.Routes()
	c.mu.Lock()
	c.draining = true
	c.servedRoutes, c.servedPeers = routes, c.peers.Load()
	c.mu.Unlock()
	if len(routes) == 0 || !c.cfg.CanRelay() {
		return 0
	}
	helpers = c.ask(ctx, func(s State) bool { return s.helps(routes) })
	if helpers > 0 {
		c.active.Store(true)
	}
	return helpers
}

// Succeeded reports whether control has given one of the routes that this router served when
// its drain began to another online node with one of its tags, or whether it served none.
func (c *Coordinator) Succeeded() bool {
	c.mu.Lock()
	served, before := c.servedRoutes, c.servedPeers
	c.mu.Unlock()
	now := c.peers.Load()
	return len(served) == 0 || slices.ContainsFunc(served, func(p netip.Prefix) bool { return now.gained(p, before) })
}

// Announce announces the drain every announceEvery until ctx ends, and then announces its
// end. It is called after [Coordinator.BeginDrain], and ctx ends after the last packet was
// sent to a successor: from then on successors drop this router's packets.
func (c *Coordinator) Announce(ctx context.Context) {
	tick := time.NewTicker(announceEvery)
	defer tick.Stop()
	last := c.ownState()
	for {
		select {
		case <-tick.C:
			s := c.ownState()
			s.Answer = true // finds routers that have started since
			c.broadcast(s)
		case <-ctx.Done():
			last.Gone = true
			c.broadcast(last)
			return
		}
	}
}

func (c *Coordinator) broadcast(s State) {
	message := encodeState(s)
	for _, n := range c.peers.Load().nodes {
		if n.Online {
			c.cfg.Send(n.addr(), message)
		}
	}
}

// Active reports whether packets to clients may have to go by way of another router.
func (c *Coordinator) Active() bool { return c.active.Load() }

var forClientPrefix = []byte{kindForClient}

// Route returns the ways by which a packet from behind this router is to go to its client:
// directly, as the payload of a message to another router (via is valid), or both. A message
// is prefix, which must not be modified, followed by the packet.
//
// Until the router to which control gives the route has relayed packets of the client, the
// client may accept packets from either router; it drops the copy from the other.
//
// A retransmitted SYN-ACK goes directly only. A client that lost the first one because it
// moved has retransmitted its SYN too, to the successor, which opens the connection: a second
// SYN-ACK, with the sequence numbers of another connection, would break it.
func (c *Coordinator) Route(raw []byte) (direct bool, via netip.Addr, prefix []byte) {
	p, _, ok := packet.ParseHeader(raw)
	if !ok {
		return false, netip.Addr{}, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.IsSYNACK() && !c.firstSYNACK(p) {
		return true, netip.Addr{}, nil
	}
	holders, _ := c.peers.Load().holdersOf(p.Src)
	for _, n := range holders {
		addr := n.addr()
		if _, ok := c.movedClients[addr][p.Dst]; ok {
			c.relayedOut.Inc()
			return false, addr, forClientPrefix
		}
		if h := c.states[addr]; !via.IsValid() && h.state.Relays && !h.state.Draining && time.Since(h.at) < silentAfter {
			via = addr
		}
	}
	return true, via, forClientPrefix
}

// maxAccepted bounds the flows whose SYN-ACK is remembered. Each SYN-ACK of a flow beyond it
// counts as the first.
const maxAccepted = 4096

// firstSYNACK reports whether a SYN-ACK is the first of its flow in this drain. The caller
// holds c.mu.
func (c *Coordinator) firstSYNACK(p packet.Header) bool {
	f, _ := flowOf(p) // it has ports
	if _, sent := c.accepted[f]; sent {
		return false
	}
	if len(c.accepted) < maxAccepted {
		c.accepted[f] = struct{}{}
	}
	return true
}

// maxMovedClients bounds the moved clients of one router. Packets to a client beyond it go
// both ways.
const maxMovedClients = 4096

// handleRelayed delivers a client's packet that another router relayed, and answers it. body
// is the packet and, unless an older version sent it, its number.
func (c *Coordinator) handleRelayed(from *Node, body []byte) {
	p, number, ok := packet.ParseHeader(body)
	if !ok || len(number) != 0 && len(number) != numberSize {
		c.refuse(malformed)
		return
	}
	c.mu.Lock()
	draining, served := c.draining, c.servedRoutes
	c.mu.Unlock()
	switch {
	case !draining || !c.cfg.CanRelay():
		c.refuse(notNow)
		return
	case !containsAddr(served, p.Dst):
		c.refuse(noRoute)
		return
	case !c.peers.Load().holds(from, p.Dst):
		// Control may have sent its netmap to the sender and its clients first.
		c.refuse(noRoute)
		c.answer(from, kindWait, number)
		return
	}
	switch c.cfg.Deliver(p.Raw) {
	case Delivered:
		c.relayedIn.Inc()
		c.markMoved(from, p.Src)
		c.answer(from, kindTaken, number)
	case Reset:
		c.relayedIn.Inc()
	case Unknown:
		c.cfg.Send(from.addr(), slices.Concat([]byte{kindUnknown}, body))
	default:
		c.refuse(denied)
	}
}

// answer sends an answer about a packet, if the packet has a number.
func (c *Coordinator) answer(to *Node, kind byte, number []byte) {
	if len(number) > 0 {
		c.cfg.Send(to.addr(), answerMessage(kind, number))
	}
}

// markMoved records that a client sends to another router, and so accepts packets from it.
// Moved clients are kept until the process ends.
func (c *Coordinator) markMoved(to *Node, client netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	clients := c.movedClients[to.addr()]
	if clients == nil {
		if len(c.movedClients) == maxNodes {
			return
		}
		clients = map[netip.Addr]struct{}{}
		c.movedClients[to.addr()] = clients
	}
	if len(clients) < maxMovedClients {
		clients[client] = struct{}{}
	}
}
