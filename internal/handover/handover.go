// Package handover lets routers of one VPC help each other, over the tailnet.
//
// When a router drains, control gives its routes to another, the successor, and each
// client's WireGuard follows: it sends what belongs to a flow of the old router to the
// successor, and accepts answers from nobody else. So the two pass packets on:
//
//	client ──▶ successor ──(of no flow here)──▶ draining router ──▶ target
//	client ◀── successor ◀───────────────────── draining router ◀── target
//
// and a flow that ends within the drain timeout is never cut. What is left then is
// reset by the same way, so that clients see it at once.
//
// It is for nodes that share a tag, and for the drain only. The draining router takes
// packets for flows that are open there, and nothing else. A successor lets another
// speak for addresses only of routes that it saw control give to that router.
//
// Messages are datagrams between tailnet addresses, so their senders are who the
// tailnet says; what is lost is sent again by those who talk (TCP, the announcement).
package handover

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Companion is another node with a tag of this router's.
type Companion struct {
	Name  string
	Addrs []netip.Addr // in the tailnet; messages go to the first
	// Primary are the routes for which control picked it.
	Primary []netip.Prefix
}

// Config connects a [Relay] with the node and the data path.
type Config struct {
	// Companions lists the nodes that may take part, as control tells of them.
	Companions func() []Companion
	// Routes are those that this router may serve.
	Routes func() []netip.Prefix
	// Healthy is false while the probes of this router fail.
	Healthy func() bool
	// Relays is false where packets cannot be passed on: kernel mode.
	Relays func() bool
	// Send sends a message to a node.
	Send func(to netip.Addr, message []byte)
	// ToFlow takes a client's packet and reports whether it was of a flow that is
	// open here; if not, nothing happened.
	ToFlow func(packet []byte) bool
	// Unclaimed takes a client's packet that is of no flow anywhere.
	Unclaimed func(packet []byte)
	// ToClient sends a packet to a client.
	ToClient func(packet []byte)

	Registerer prometheus.Registerer
	Logger     *slog.Logger
}

const (
	// announceEvery is how often a draining router repeats itself, memory how long
	// it is believed without.
	announceEvery = 500 * time.Millisecond
	memory        = 5 * time.Second
	// answerWait is how long others may take over an answer. Routers of one VPC
	// are milliseconds apart; the first datagram between two may wait for a
	// handshake, over a relay.
	answerWait = time.Second
	askEvery   = 100 * time.Millisecond
)

// Relay is this router's part. Create it with [New].
type Relay struct {
	cfg     Config
	out, in prometheus.Counter // packets passed on
	active  atomic.Bool        // draining, with others that help
	foreign atomic.Bool        // another router drains
	states  chan letter

	mu       sync.Mutex
	draining bool
	heard    map[netip.Addr]heard      // the last State of each node, by its first address
	drainers map[netip.Addr]drainer    // others that drain
	clients  map[netip.Addr]netip.Addr // whose packets came by way of which router
	news     chan struct{}             // closed when heard changes
}

type letter struct {
	from netip.Addr
	body []byte
}

type heard struct {
	state State
	at    time.Time
}

// drainer is another router that drains.
type drainer struct {
	since, heard time.Time
	routes       []netip.Prefix // it was primary for them
}

// New creates a Relay.
func New(cfg Config) *Relay {
	packets := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "router_handover_packets_total",
		Help: "Packets of flows that another router has, or has the routes of: passed on to it (out), and taken from it (in).",
	}, []string{"direction"})
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(packets)
	}
	return &Relay{
		cfg: cfg, out: packets.WithLabelValues("out"), in: packets.WithLabelValues("in"), states: make(chan letter, 64),
		heard: map[netip.Addr]heard{}, drainers: map[netip.Addr]drainer{}, clients: map[netip.Addr]netip.Addr{},
		news: make(chan struct{}),
	}
}

// Run answers other routers until ctx ends.
func (r *Relay) Run(ctx context.Context) {
	tick := time.NewTicker(memory)
	defer tick.Stop()
	for {
		select {
		case l := <-r.states:
			r.hear(l.from, l.body)
		case now := <-tick.C:
			r.forget(now)
		case <-ctx.Done():
			return
		}
	}
}

// state is what to tell others now.
func (r *Relay) state() State {
	r.mu.Lock()
	draining := r.draining
	r.mu.Unlock()
	return State{Routes: r.cfg.Routes(), Healthy: r.cfg.Healthy(), Relays: r.cfg.Relays(), Draining: draining}
}

// Others asks all companions for their state, and reports whether good holds for one.
func (r *Relay) Others(ctx context.Context, good func(State) bool) bool {
	return len(r.ask(ctx, good)) > 0
}

// ask asks every companion until good holds for an answer, or all have answered.
func (r *Relay) ask(ctx context.Context, good func(State) bool) (from []netip.Addr) {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	repeat := time.NewTicker(askEvery)
	defer repeat.Stop()
	var asked []netip.Addr
	question := r.state()
	question.Answer = true
	send := func() {
		asked = asked[:0]
		for _, c := range r.cfg.Companions() {
			asked = append(asked, c.Addrs[0])
			r.cfg.Send(c.Addrs[0], encode(question))
		}
	}
	for send(); len(asked) > 0; {
		r.mu.Lock()
		news, answers := r.news, 0
		from = nil
		for _, a := range asked {
			if h, ok := r.heard[a]; ok && h.at.After(start) {
				if answers++; good(h.state) {
					from = append(from, a)
				}
			}
		}
		r.mu.Unlock()
		if len(from) > 0 || answers == len(asked) {
			break
		}
		select {
		case <-news:
		case <-repeat.C:
			send()
		case <-ctx.Done():
			return from
		}
	}
	return from
}

// Message takes a datagram that a node of the tailnet sent. It is valid during the call only.
func (r *Relay) Message(from netip.Addr, message []byte) {
	if len(message) < 2 {
		return
	}
	switch rest := message[1:]; message[0] {
	case kindState:
		select { // what it takes to answer must not hold up packets
		case r.states <- letter{from, bytes.Clone(rest)}:
		default:
		}
	case kindForFlow:
		r.forFlow(from, rest)
	case kindUnknown:
		r.mu.Lock()
		_, ok := r.drainers[from]
		r.mu.Unlock()
		if ok {
			r.cfg.Unclaimed(rest)
		}
	case kindForClient:
		r.forClient(from, rest)
	}
}

// companion finds the one that has an address.
func (r *Relay) companion(addr netip.Addr) (Companion, bool) {
	all := r.cfg.Companions()
	i := slices.IndexFunc(all, func(c Companion) bool { return slices.Contains(c.Addrs, addr) })
	if i < 0 {
		return Companion{}, false
	}
	return all[i], true
}
