// Package handover lets the routers of one VPC continue each other's flows, over the
// tailnet.
//
// When a router drains, control gives its routes to another, the successor, and each
// client's WireGuard follows: it sends packets of the old router's flows to the successor,
// and accepts answers from no other node. So the two relay packets for each other:
//
//	client ──▶ successor ──(no such flow here)──▶ draining router ──▶ target
//	client ◀── successor ◀─────────────────────── draining router ◀── target
//
// A flow that ends within the drain timeout is never cut. Flows that are still open then
// are reset by way of the successor, so that clients notice at once.
//
// Messages are datagrams between tailnet addresses, so WireGuard authenticates their
// senders. Their contents are claims. Whether a sender may act for a destination follows
// from this router's own netmap: see [peers]. Datagrams may be lost, repeated, reordered
// and forged by any node that shares a tag with this one;
// docs/decisions/0007-hand-over.md lists the harm that such a node can do.
//
// Invariants:
//   - A relayed packet reaches a flow only if control gives its destination's route to the
//     node that relayed it, and it passes the deny list and the access rules.
//   - A relayed packet never opens a flow at the draining router.
//   - A packet is never taken back from a peer router. An answer names the number under
//     which this router relayed it; if it comes from the node that the packet was relayed
//     to, once and within [returnWithin], this router delivers its own copy.
//   - Each table has a bound, and a share per node or client.
//
// Memory: a packet or message that is an argument, in either direction, belongs to the
// caller and is valid during the call only, except in [Config].DeliverUnclaimed, which
// takes ownership.
//
// Locks: Coordinator.mu and pendingTable.mu are never held together, and no function of
// [Config] is called with either of them held.
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

	"subnetrouter/internal/backoff"

	"github.com/prometheus/client_golang/prometheus"
)

// Config connects a [Coordinator] with the node and the data path. Its functions are
// called from several goroutines at once: those of [Coordinator.Run] and of timers, and the
// callers of the Coordinator's methods.
type Config struct {
	// Routes returns the routes that this router may serve.
	Routes func() []netip.Prefix
	// Healthy returns false while the probes of this router fail.
	Healthy func() bool
	// CanRelay returns false where packets cannot be relayed: in kernel mode.
	CanRelay func() bool
	// MaxDrain is the longest drain of a router of this service.
	MaxDrain time.Duration
	// Send sends a message to a node. The message may be sent to several nodes: Send must
	// not modify it.
	Send func(to netip.Addr, message []byte)
	// Deliver delivers a client's packet that a peer router relayed, by the same rules as
	// one that came from the client itself. It is called by [Coordinator.Receive].
	Deliver func(packet []byte) Outcome
	// DeliverUnclaimed delivers a client's packet for which no router has a flow, and takes
	// ownership of it. It is called by [Coordinator.Receive] or a timer's goroutine.
	DeliverUnclaimed func(packet []byte)
	// SendToClient sends a packet to a client. It is called by [Coordinator.Receive].
	SendToClient func(packet []byte)

	Registerer prometheus.Registerer
	Logger     *slog.Logger
}

// Outcome is the result of delivering a relayed packet.
type Outcome int

const (
	Refused   Outcome = iota // denied, malformed, or of a kind that is not relayed
	Unknown                  // a datagram without a flow here
	Reset                    // a segment without a connection here, answered by a reset
	Delivered                // to a flow here
)

const (
	// A draining router announces its drain every announceEvery. The drain of a router
	// from which no state came for silentAfter counts as over.
	announceEvery = 500 * time.Millisecond
	silentAfter   = 5 * time.Second
	// answerWait bounds the wait for other routers' answers to a request, which is sent
	// every resendEvery meanwhile. Routers of one VPC are milliseconds apart; the first
	// datagram between two may wait for a handshake, over a DERP server.
	answerWait  = time.Second
	resendEvery = 100 * time.Millisecond
	// readEvery is the pause between reads of other routers' states, so that a flood of
	// them costs little.
	readEvery = 5 * time.Millisecond
	// minDrainLimit is the smallest bound of another router's drain. Config.MaxDrain may
	// be shorter than that router's: ECS grants 120 s on Fargate.
	minDrainLimit = 125 * time.Second
)

// Coordinator coordinates this router with its peer routers. Create it with [New].
//
// A Coordinator drains once and for good: [Coordinator.BeginDrain] sets draining, and
// active if a peer router offers help; [Coordinator.Announce] repeats the drain to the
// others and announces its end. Nothing resets them.
type Coordinator struct {
	cfg                   Config
	relayedOut, relayedIn prometheus.Counter
	refusedBy             map[refusal]prometheus.Counter // read-only after New
	active                atomic.Bool                    // draining, and a peer router helps
	peerDraining          atomic.Bool                    // a drain in drains is not over; set under mu
	loggedTooMany         atomic.Bool                    // a netmap had more than maxNodes nodes
	peers                 atomic.Pointer[peers]          // stored under mu
	wake                  chan struct{}                  // has an element if unread is not empty; capacity 1
	lastNumber            atomic.Uint64                  // the number of the last packet relayed
	pending               pendingTable

	mu           sync.Mutex // covers the fields below; the keys of maps are Node.addr
	draining     bool
	servedRoutes []netip.Prefix                         // this router's routes when its drain began
	servedPeers  *peers                                 // the netmap at that time
	unread       map[netip.Addr][]byte                  // each node's last State that Run has not read
	states       map[netip.Addr]receivedState           // each node's last State that Run has read
	drains       map[netip.Addr]peerDrain               // drains of other routers, ended ones included
	movedClients map[netip.Addr]map[netip.Addr]struct{} // clients whose packets the node relayed
	accepted     map[flow]struct{}                      // flows whose SYN-ACK was sent during this router's drain
	lostRoutes   map[netip.Addr][]lostRoute             // routes that control took from the node recently
	stateRead    chan struct{}                          // closed, and replaced, when Run has read a State
}

// receivedState is a State and the time at which it was read.
type receivedState struct {
	state State
	at    time.Time
}

// refusal is the reason why a message had no effect. The set is closed: the reason is a
// metric's label.
type refusal string

const (
	stranger  refusal = "stranger"  // the sender has no tag of this router
	malformed refusal = "malformed" // truncated, or of an unknown kind
	noRoute   refusal = "no_route"  // control does not give the destination's route to the sender
	denied    refusal = "denied"    // by the deny list or the access rules, or cannot be part of a flow
	notSent   refusal = "not_sent"  // the packet was not relayed to the sender, or is no longer pending
	notNow    refusal = "not_now"   // no drain that it could belong to is under way
)

var refusalReasons = []refusal{stranger, malformed, noRoute, denied, notSent, notNow}

// New creates a Coordinator.
func New(cfg Config) *Coordinator {
	packets := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "router_handover_packets_total",
		Help: "Packets relayed between routers during a hand-over: sent to another router (out), and accepted from one (in).",
	}, []string{"direction"})
	rejected := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "router_handover_refused_total",
		Help: "Hand-over messages from other nodes that had no effect, by reason.",
	}, []string{"reason"})
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(packets, rejected)
	}
	c := &Coordinator{
		cfg: cfg, relayedOut: packets.WithLabelValues("out"), relayedIn: packets.WithLabelValues("in"),
		refusedBy: map[refusal]prometheus.Counter{}, wake: make(chan struct{}, 1),
		unread: map[netip.Addr][]byte{}, states: map[netip.Addr]receivedState{}, drains: map[netip.Addr]peerDrain{},
		movedClients: map[netip.Addr]map[netip.Addr]struct{}{}, accepted: map[flow]struct{}{}, lostRoutes: map[netip.Addr][]lostRoute{}, stateRead: make(chan struct{}),
	}
	for _, reason := range refusalReasons {
		c.refusedBy[reason] = rejected.WithLabelValues(string(reason))
	}
	c.pending.init()
	c.lastNumber.Store(rand.Uint64())
	c.peers.Store(newPeers(nil, nil))
	return c
}

// Run reads other routers' states and answers their requests until ctx ends. Only Run
// changes states and drains.
func (c *Coordinator) Run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-c.wake:
			c.readStates()
		case now := <-tick.C:
			c.expire(now)
			continue
		case <-ctx.Done():
			c.pending.close()
			return
		}
		backoff.Sleep(ctx, readEvery)
	}
}

// readStates handles the states that were received since the last call.
func (c *Coordinator) readStates() {
	c.mu.Lock()
	received := c.unread
	c.unread = make(map[netip.Addr][]byte, len(received))
	c.mu.Unlock()
	for from, body := range received {
		c.handleState(from, body)
	}
}

// ownState returns this router's description of itself.
func (c *Coordinator) ownState() State {
	c.mu.Lock()
	draining := c.draining
	c.mu.Unlock()
	return State{Routes: c.cfg.Routes(), Healthy: c.cfg.Healthy(), Relays: c.cfg.CanRelay(), Draining: draining, Confirms: true}
}

// AskPeers asks the other routers for their states, and reports whether good holds for one.
func (c *Coordinator) AskPeers(ctx context.Context, good func(State) bool) bool {
	return c.ask(ctx, good) > 0
}

// ask asks every online node with a tag of this router for its state, until good holds for
// an answer, all have answered, or answerWait is over. It returns the number of answers for
// which good holds.
func (c *Coordinator) ask(ctx context.Context, good func(State) bool) (count int) {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	repeat := time.NewTicker(resendEvery)
	defer repeat.Stop()
	var asked []netip.Addr
	request := c.ownState()
	request.Answer = true
	send := func() {
		asked = asked[:0]
		for _, n := range c.peers.Load().nodes {
			if n.Online {
				asked = append(asked, n.addr())
				c.cfg.Send(n.addr(), encodeState(request))
			}
		}
	}
	for send(); len(asked) > 0; {
		c.mu.Lock()
		read := c.stateRead
		var answers []State
		for _, a := range asked {
			if h, ok := c.states[a]; ok && h.at.After(start) {
				answers = append(answers, h.state)
			}
		}
		c.mu.Unlock()
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
		case <-read:
		case <-repeat.C:
			send()
		case <-ctx.Done():
			return count
		}
	}
	return count
}

// Receive handles a datagram from a node of the tailnet, without blocking. Its cost does
// not depend on the size of the tailnet.
func (c *Coordinator) Receive(from netip.Addr, message []byte) {
	node := c.peers.Load().byAddr[from]
	if node == nil {
		c.refuse(stranger)
		return
	}
	if len(message) < 2 {
		c.refuse(malformed)
		return
	}
	switch body := message[1:]; message[0] {
	case kindState:
		c.queueState(node, body)
	case kindRelayed:
		c.handleRelayed(node, body)
	case kindUnknown, kindTaken, kindWait:
		c.handleAnswer(node, message[0], body)
	case kindForClient:
		c.handleForClient(node, body)
	default:
		c.refuse(malformed)
	}
}

// refuse counts a message that had no effect.
func (c *Coordinator) refuse(reason refusal) { c.refusedBy[reason].Inc() }

// queueState leaves a copy of a state for [Coordinator.Run], so that answers do not delay
// packets. It keeps the last state of each node, so that a flood displaces only the
// sender's own states.
func (c *Coordinator) queueState(node *Node, body []byte) {
	if len(body) > maxStateSize {
		c.refuse(malformed)
		return
	}
	c.mu.Lock()
	c.unread[node.addr()] = bytes.Clone(body)
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}
