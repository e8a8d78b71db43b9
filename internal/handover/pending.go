package handover

import (
	"bytes"
	"net/netip"
	"sync"
	"time"

	"subnetrouter/internal/packet"
)

// A datagram without a flow here may be the first of a new flow, or belong to a flow of the
// draining router. Only that router knows, so this one keeps a copy of the datagram, the
// pending packet, until the draining router has answered.
const (
	// answerWithin bounds the time of an answer. Without one the datagram is delivered
	// here, so that a router that died delays a new flow by no more than that.
	answerWithin = 100 * time.Millisecond
	// retryEvery is the pause before a packet is relayed again to a router that waits for
	// control's netmap, and returnWithin the longest such wait.
	retryEvery   = 50 * time.Millisecond
	returnWithin = 2 * time.Second
	// maxPending bounds the pending packets, maxPendingPerClient those of one client.
	// Beyond these, packets are relayed without a copy.
	maxPending          = 1024
	maxPendingPerClient = 128
	// takenTTL is the time for which a flow counts as the draining router's after that
	// router's last positive answer: a lost or late answer must not split the flow. maxTaken
	// bounds the flows.
	takenTTL = silentAfter
	maxTaken = 4096
)

// pendingTable holds the pending packets by number.
//
// A packet enters the table before it is relayed and leaves it once: by remove, on an answer
// of its node or when its timer fires, or by close. The caller of remove owns the packet, and
// hands it to Config.DeliverUnclaimed or drops it, so that no packet is delivered twice.
type pendingTable struct {
	mu        sync.Mutex // covers the fields below, and the timer of each packet
	packets   map[uint64]*pendingPacket
	perClient map[netip.Addr]int // pending packets of each client
	taken     map[flow]time.Time // flows of a draining router, and its last positive answer
	closed    bool               // no packet is added any more
}

// pendingPacket is a copy of a client's packet that was relayed to a draining router. Only
// its timer changes.
type pendingPacket struct {
	packet    []byte
	client    netip.Addr
	flow      flow // valid if hasFlow
	hasFlow   bool
	udp       bool
	node      netip.Addr // the draining router
	firstSent time.Time
	confirms  bool        // the node answers each numbered datagram; otherwise it answers only kindUnknown
	timer     *time.Timer // runs unanswered or, after kindWait, relayAgain
}

func (t *pendingTable) init() {
	t.packets, t.perClient, t.taken = map[uint64]*pendingPacket{}, map[netip.Addr]int{}, map[flow]time.Time{}
}

// addPending keeps a copy of a packet that is about to be relayed to a node.
func (c *Coordinator) addPending(number uint64, node netip.Addr, d packet.Header, confirms bool) {
	t := &c.pending
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || len(t.packets) >= maxPending || t.perClient[d.Src] >= maxPendingPerClient {
		return
	}
	p := &pendingPacket{packet: bytes.Clone(d.Raw), client: d.Src, udp: d.Protocol == packet.ProtoUDP, node: node, firstSent: time.Now(), confirms: confirms}
	p.flow, p.hasFlow = flowOf(d)
	t.packets[number] = p
	t.perClient[d.Src]++
	wait := answerWithin
	if !confirms {
		wait = returnWithin
	}
	p.timer = time.AfterFunc(wait, func() { c.unanswered(number) })
}

// remove removes and returns the packet with a number, if it was relayed to that node; an
// invalid address stands for any node. It returns nil if there is none.
func (t *pendingTable) remove(number uint64, node netip.Addr) *pendingPacket {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.packets[number]
	if p == nil || node.IsValid() && p.node != node {
		return nil
	}
	p.timer.Stop()
	delete(t.packets, number)
	if t.perClient[p.client]--; t.perClient[p.client] == 0 {
		delete(t.perClient, p.client)
	}
	return p
}

// unanswered ends the wait for an answer. It delivers a datagram here, unless the draining
// router had its flow within takenTTL, and drops a segment, which its sender retransmits.
func (c *Coordinator) unanswered(number uint64) {
	p := c.pending.remove(number, netip.Addr{})
	if p != nil && p.confirms && p.udp && !c.pending.wasTaken(p, time.Now()) {
		c.cfg.DeliverUnclaimed(p.packet)
	}
}

// markTaken records a positive answer.
func (t *pendingTable) markTaken(p *pendingPacket, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, known := t.taken[p.flow]; p.udp && p.hasFlow && (known || len(t.taken) < maxTaken) {
		t.taken[p.flow] = now
	}
}

// wasTaken reports whether the draining router took a packet of p's flow within takenTTL.
func (t *pendingTable) wasTaken(p *pendingPacket, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	at, ok := t.taken[p.flow]
	return ok && p.hasFlow && now.Sub(at) < takenTTL
}

// expireTaken removes the flows whose last positive answer is older than takenTTL.
func (t *pendingTable) expireTaken(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for f, at := range t.taken {
		if now.Sub(at) >= takenTTL {
			delete(t.taken, f)
		}
	}
}

// handleAnswer handles a draining router's answer to a relayed packet.
func (c *Coordinator) handleAnswer(from *Node, kind byte, body []byte) {
	number, ok := numberOf(body)
	if !ok {
		c.refuse(malformed)
		return
	}
	if kind == kindWait {
		c.retry(number, from.addr())
		return
	}
	p := c.pending.remove(number, from.addr())
	switch {
	case p == nil:
		c.refuse(notSent)
	case kind == kindTaken:
		c.pending.markTaken(p, time.Now())
	default:
		c.cfg.DeliverUnclaimed(p.packet)
	}
}

// retry has a packet relayed again after retryEvery: the draining router's netmap does not
// give the route to this router yet.
func (c *Coordinator) retry(number uint64, node netip.Addr) {
	t := &c.pending
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.packets[number]
	if p == nil || p.node != node {
		c.refuse(notSent)
		return
	}
	if time.Since(p.firstSent) > returnWithin-retryEvery-answerWithin || !p.timer.Stop() {
		return // the timer that is set ends the wait
	}
	p.timer = time.AfterFunc(retryEvery, func() { c.relayAgain(number) })
}

// relayAgain relays a pending packet again, if it is still pending.
func (c *Coordinator) relayAgain(number uint64) {
	t := &c.pending
	t.mu.Lock()
	p := t.packets[number]
	if p == nil {
		t.mu.Unlock()
		return
	}
	message := appendNumber(append([]byte{kindRelayed}, p.packet...), number)

	p.timer = time.AfterFunc(answerWithin, func() { c.unanswered(number) })
	t.mu.Unlock()
	c.cfg.Send(p.node, message)
}

// close drops all pending packets; none is added afterwards.
func (t *pendingTable) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for _, p := range t.packets {
		p.timer.Stop()
	}
	clear(t.packets)
	clear(t.perClient)
	clear(t.taken)
}
