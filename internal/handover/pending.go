package handover

import (
	"bytes"
	"net/netip"
	"sync"
	"time"
)

// A datagram of no flow here may be the first of a new flow, or of one that the draining
// router has. Only that router knows, so this one keeps a copy until it answers.
const (
	// answerWithin is how long an answer may take. Without one the datagram is taken
	// here, so that a router that died delays a new flow by no more.
	answerWithin = 100 * time.Millisecond
	// retryEvery is the pause before a datagram is relayed again to a router that
	// waits for control, which may take as long as returnWithin.
	retryEvery   = 50 * time.Millisecond
	returnWithin = 2 * time.Second
	// mostPending bounds the copies, mostPendingOfClient those of one client's
	// datagrams. Beyond, datagrams are relayed without a copy.
	mostPending         = 1024
	mostPendingOfClient = 128
	// takenFor is how long a flow counts as the draining router's after its last positive
	// answer: an answer that is lost or late must not split the flow. mostTaken bounds
	// the flows.
	takenFor  = silentAfter
	mostTaken = 4096
)

// pending holds the copies of datagrams whose answer is due, by their numbers.
type pending struct {
	mu       sync.Mutex
	copies   map[uint64]*copied
	ofClient map[netip.Addr]int
	taken    map[flow]time.Time // flows of a draining router, and its last positive answer
	closed   bool
}

type copied struct {
	packet   []byte
	client   netip.Addr
	flow     flow
	hasFlow  bool
	udp      bool
	node     netip.Addr // it was relayed to
	sent     time.Time  // first
	confirms bool       // the node answers each; an older one is silent if it has the flow
	timer    *time.Timer
}

func (p *pending) init() {
	p.copies, p.ofClient, p.taken = map[uint64]*copied{}, map[netip.Addr]int{}, map[flow]time.Time{}
}

// await keeps a copy of a datagram that is about to be relayed to a node.
func (r *Coordinator) await(number uint64, node netip.Addr, d ipPacket, confirms bool) {
	p := &r.returned
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.copies) >= mostPending || p.ofClient[d.src] >= mostPendingOfClient {
		return
	}
	c := &copied{packet: bytes.Clone(d.raw), client: d.src, udp: d.udp, node: node, sent: time.Now(), confirms: confirms}
	c.flow, c.hasFlow = d.flow()
	p.copies[number] = c
	p.ofClient[d.src]++
	wait := answerWithin
	if !confirms {
		wait = returnWithin
	}
	c.timer = time.AfterFunc(wait, func() { r.unanswered(number) })
}

// remove takes a copy out, if it is there and was relayed to that node. Any node is an
// invalid address.
func (p *pending) remove(number uint64, node netip.Addr) *copied {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.copies[number]
	if c == nil || node.IsValid() && c.node != node {
		return nil
	}
	c.timer.Stop()
	delete(p.copies, number)
	if p.ofClient[c.client]--; p.ofClient[c.client] == 0 {
		delete(p.ofClient, c.client)
	}
	return c
}

// unanswered ends the wait for an answer. A datagram is taken here, unless its flow was the
// draining router's a moment ago; a segment is lost, and its sender repeats it.
func (r *Coordinator) unanswered(number uint64) {
	c := r.returned.remove(number, netip.Addr{})
	if c != nil && c.confirms && c.udp && !r.returned.wasTaken(c, time.Now()) {
		r.cfg.DeliverUnclaimed(c.packet)
	}
}

// noteTaken remembers a positive answer.
func (p *pending) noteTaken(c *copied, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, known := p.taken[c.flow]; c.udp && c.hasFlow && (known || len(p.taken) < mostTaken) {
		p.taken[c.flow] = now
	}
}

func (p *pending) wasTaken(c *copied, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, ok := p.taken[c.flow]
	return ok && c.hasFlow && now.Sub(at) < takenFor
}

// forgetTaken drops the flows whose last positive answer is old.
func (p *pending) forgetTaken(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for f, at := range p.taken {
		if now.Sub(at) >= takenFor {
			delete(p.taken, f)
		}
	}
}

// takeAnswer takes a draining router's answer about a relayed datagram.
func (r *Coordinator) takeAnswer(from *Node, kind byte, body []byte) {
	number, ok := numberOf(body)
	if !ok {
		r.refuse(malformed)
		return
	}
	if kind == kindWait {
		r.retry(number, from.addr())
		return
	}
	c := r.returned.remove(number, from.addr())
	switch {
	case c == nil:
		r.refuse(notSent)
	case kind == kindTaken:
		r.returned.noteTaken(c, time.Now())
	default:
		r.cfg.DeliverUnclaimed(c.packet)
	}
}

// retry relays a datagram once more after a pause: the draining router has yet to learn
// from control that this one holds the route.
func (r *Coordinator) retry(number uint64, node netip.Addr) {
	p := &r.returned
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.copies[number]
	if c == nil || c.node != node {
		r.refuse(notSent)
		return
	}
	if time.Since(c.sent) > returnWithin-retryEvery-answerWithin || !c.timer.Stop() {
		return // its timer ends the wait
	}
	c.timer = time.AfterFunc(retryEvery, func() { r.relayAgain(number) })
}

func (r *Coordinator) relayAgain(number uint64) {
	p := &r.returned
	p.mu.Lock()
	c := p.copies[number]
	if c == nil {
		p.mu.Unlock()
		return
	}
	message := appendNumber(append([]byte{kindRelayed}, c.packet...), number)
	c.timer = time.AfterFunc(answerWithin, func() { r.unanswered(number) })
	p.mu.Unlock()
	r.cfg.Send(c.node, message)
}

// close drops all copies; none is kept from then on.
func (p *pending) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, c := range p.copies {
		c.timer.Stop()
	}
	clear(p.copies)
	clear(p.ofClient)
	clear(p.taken)
}
