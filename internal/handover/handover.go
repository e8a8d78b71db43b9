// Package handover lets routers of one VPC help each other, over the tailnet.
//
// When a router drains, control gives its routes to another, the successor, and each
// client's WireGuard follows: it sends packets of the old router's flows to the successor,
// and accepts answers from no other node. So the two relay packets for each other:
//
//	client ──▶ successor ──(no such flow here)──▶ draining router ──▶ target
//	client ◀── successor ◀─────────────────────── draining router ◀── target
//
// and a flow that ends within the drain timeout is never cut. The flows that remain then
// are reset by the same way, so that clients notice at once.
//
// Messages are datagrams between tailnet addresses, so WireGuard vouches for their
// senders. Their contents are claims. Whether a sender may act for a destination follows
// from this router's own netmap: see [peers]. Datagrams may be lost, repeated, reordered
// and forged by any node that shares a tag with this one; docs/decisions/0007-hand-over.md
// lists what such a node can do.
//
// Invariants:
//   - A relayed packet reaches a flow only if control gives its destination's route to the
//     node that relayed it, and it passes the deny list and the access rules.
//   - A relayed packet never opens a flow at the draining router.
//   - A packet comes back only as the number under which this router relayed its own copy,
//     from the node that it relayed it to, once, within [returnWithin].
//   - Each table has a bound, and a share per node or client.
package handover

import (
	"bytes"
	"context"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Config connects a [Coordinator] with the node and the data path.
type Config struct {
	// Routes are those that this router may serve.
	Routes func() []netip.Prefix
	// Healthy is false while the probes of this router fail.
	Healthy func() bool
	// Relays is false where packets cannot be passed on: kernel mode.
	CanRelay func() bool
	// Longest is the longest drain of a router of this service.
	MaxDrain time.Duration
	// Send sends a message to a node.
	Send func(to netip.Addr, message []byte)
	// ToFlow takes a client's packet that a peer router relayed, by the same rules as one
	// that came from the client itself.
	Deliver func(packet []byte) Outcome
	// Unclaimed takes a client's packet of which no router has the flow. The packet is
	// its own from then on.
	DeliverUnclaimed func(packet []byte)
	// ToClient sends a packet to a client.
	SendToClient func(packet []byte)

	Registerer prometheus.Registerer
	Logger     *slog.Logger
}

// Outcome is the result of delivering a relayed packet.
type Outcome int

const (
	Refused   Outcome = iota // denied, malformed, or of a kind that is not relayed
	Unknown                  // a datagram of no flow here
	Reset                    // a segment of no connection here, answered by a reset
	Delivered                // of a flow here
)

const (
	// announceEvery is how often a draining router repeats itself; it is forgotten
	// after silence for silentAfter.
	announceEvery = 500 * time.Millisecond
	silentAfter   = 5 * time.Second
	// answerWait bounds a question to other routers. Routers of one VPC are
	// milliseconds apart; the first datagram between two may wait for a handshake,
	// over a DERP server.
	answerWait = time.Second
	askEvery   = 100 * time.Millisecond
	// hearEvery bounds how often states are read, so that a flood of them costs little.
	hearEvery = 5 * time.Millisecond
	// leastDrain is the bound of another router's drain where this router's own setting
	// is shorter: ECS grants 120 s on Fargate.
	leastDrain = 125 * time.Second
)

// Coordinator is this router's part. Create it with [New].
type Coordinator struct {
	cfg      Config
	out, in  prometheus.Counter // relayed packets
	refused  map[refusal]prometheus.Counter
	active   atomic.Bool // draining, with others that help
	foreign  atomic.Bool // another router drains
	crowded  atomic.Bool // the nodes beyond mostNodes were logged
	peers    atomic.Pointer[peers]
	wake     chan struct{} // inbox is not empty
	number   atomic.Uint64 // of the last packet relayed
	returned pending

	mu       sync.Mutex
	draining bool
	served   []netip.Prefix                         // this router's routes when its drain began
	before   *peers                                 // the netmap then
	inbox    map[netip.Addr][]byte                  // the last unread State of each node
	heard    map[netip.Addr]heard                   // the last State of each node
	drainers map[netip.Addr]drainer                 // others that drain
	moved    map[netip.Addr]map[netip.Addr]struct{} // by router: clients whose packets came by way of it
	lost     map[netip.Addr][]lost                  // routes that control took from each node of late
	news     chan struct{}                          // closed when heard changes
}

type heard struct {
	state State
	at    time.Time
}

// refusal is why a message had no effect: a closed set, for it is a metric's label.
type refusal string

const (
	stranger  refusal = "stranger"  // from a node without a tag of this router's
	malformed refusal = "malformed" // cut short, or of an unknown kind
	noRoute   refusal = "no_route"  // about a destination whose route control does not give to the sender
	denied    refusal = "denied"    // by the deny list or the access rules, or no part of a flow
	notSent   refusal = "not_sent"  // about a packet that this router did not relay to the sender, or no longer awaits
	notNow    refusal = "not_now"   // while no drain is under way that it could be about
)

var refusals = []refusal{stranger, malformed, noRoute, denied, notSent, notNow}

// New creates a Coordinator.
func New(cfg Config) *Coordinator {
	packets := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "router_handover_packets_total",
		Help: "Packets relayed between routers during a hand-over: passed on to another router (out), and taken from one (in).",
	}, []string{"direction"})
	rejected := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "router_handover_refused_total",
		Help: "Messages of the hand-over that had no effect, by reason.",
	}, []string{"reason"})
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(packets, rejected)
	}
	r := &Coordinator{
		cfg: cfg, out: packets.WithLabelValues("out"), in: packets.WithLabelValues("in"),
		refused: map[refusal]prometheus.Counter{}, wake: make(chan struct{}, 1),
		inbox: map[netip.Addr][]byte{}, heard: map[netip.Addr]heard{}, drainers: map[netip.Addr]drainer{},
		moved: map[netip.Addr]map[netip.Addr]struct{}{}, lost: map[netip.Addr][]lost{}, news: make(chan struct{}),
	}
	for _, why := range refusals {
		r.refused[why] = rejected.WithLabelValues(string(why))
	}
	r.returned.init()
	r.number.Store(rand.Uint64())
	r.peers.Store(newPeers(nil, nil))
	return r
}

// Run reads other routers' states and answers them until ctx ends.
func (r *Coordinator) Run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-r.wake:
			r.read()
		case now := <-tick.C:
			r.forget(now)
			continue
		case <-ctx.Done():
			r.returned.close()
			return
		}
		select {
		case <-time.After(hearEvery):
		case <-ctx.Done():
		}
	}
}

// read takes the states that came in.
func (r *Coordinator) read() {
	r.mu.Lock()
	inbox := r.inbox
	r.inbox = make(map[netip.Addr][]byte, len(inbox))
	r.mu.Unlock()
	for from, body := range inbox {
		r.hear(from, body)
	}
}

// state is this router's description of itself.
func (r *Coordinator) state() State {
	r.mu.Lock()
	draining := r.draining
	r.mu.Unlock()
	return State{Routes: r.cfg.Routes(), Healthy: r.cfg.Healthy(), Relays: r.cfg.CanRelay(), Draining: draining, Confirms: true}
}

// AskPeers asks the other routers for their state, and reports whether good holds for one.
func (r *Coordinator) AskPeers(ctx context.Context, good func(State) bool) bool {
	return r.ask(ctx, good) > 0
}

// ask asks every node with a tag of this router's until good holds for an answer, or all
// have answered. It returns how many answers it holds for.
func (r *Coordinator) ask(ctx context.Context, good func(State) bool) (count int) {
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
		for _, n := range r.peers.Load().nodes {
			if n.Online {
				asked = append(asked, n.addr())
				r.cfg.Send(n.addr(), encode(question))
			}
		}
	}
	for send(); len(asked) > 0; {
		r.mu.Lock()
		news := r.news
		var answers []State
		for _, a := range asked {
			if h, ok := r.heard[a]; ok && h.at.After(start) {
				answers = append(answers, h.state)
			}
		}
		r.mu.Unlock()
		count = 0
		for _, s := range answers {
			if good(s) {
				count++
			}
		}
		if count > 0 || len(answers) == len(asked) {
			break
		}
		select {
		case <-news:
		case <-repeat.C:
			send()
		case <-ctx.Done():
			return count
		}
	}
	return count
}

// Receive takes a datagram from a node of the tailnet. The datagram is valid during the
// call only. Its cost does not depend on the size of the tailnet.
func (r *Coordinator) Receive(from netip.Addr, message []byte) {
	node := r.peers.Load().byAddr[from]
	if node == nil {
		r.refuse(stranger)
		return
	}
	if len(message) < 2 {
		r.refuse(malformed)
		return
	}
	switch body := message[1:]; message[0] {
	case kindState:
		r.receiveState(node, body)
	case kindRelayed:
		r.takeRelayed(node, body)
	case kindUnknown, kindTaken, kindWait:
		r.takeAnswer(node, message[0], body)
	case kindForClient:
		r.takeForClient(node, body)
	default:
		r.refuse(malformed)
	}
}

func (r *Coordinator) refuse(why refusal) { r.refused[why].Inc() }

// receiveState leaves a state for [Relay.Run]: an answer must not hold up packets. Of
// each node only the last one counts, so that a flood displaces the sender's own only.
func (r *Coordinator) receiveState(node *Node, body []byte) {
	if len(body) > mostState {
		r.refuse(malformed)
		return
	}
	r.mu.Lock()
	r.inbox[node.addr()] = bytes.Clone(body)
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}
