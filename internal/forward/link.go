package forward

import (
	"errors"
	"sync"

	"subnetrouter/internal/packet"
)

// maxQueued bounds the packets that wait for the tailnet. Senders wait when the queue is full,
// which is the backpressure from slow parts (encryption, the network) to fast ones: targets are
// read no faster than peers receive.
const maxQueued = 256

// maxQueuedReplies bounds the answers of packet delivery itself (ICMP errors and resets), which
// never waits for room. They have a separate queue because a bulk transfer keeps the other one
// full.
const maxQueuedReplies = 256

// ErrClosed is returned once the forwarder is closed.
var ErrClosed = errors.New("forwarder closed")

// outgoing is a packet for a peer that the data path built, or a run of segments of gVisor's stack.
// Exactly one of own and run is set. The holder of an outgoing owns it, passes it on or releases it,
// once.
type outgoing struct {
	own  *packetBuffer
	run  packetRun
	done int // segments of the run that were sent already
}

// packetRun is one packet, or a run of segments.
type packetRun interface {
	// addTo adds the packets from number from to a slab, as [packet.SegmentRun.Split] does.
	addTo(from int, to *packet.Slab) (n int, all bool)
	release()
}

// packetBuffer is a pooled buffer; the packet is b[:n]. Its content is undefined when it comes out
// of the pool.
type packetBuffer struct {
	b [ownPacketSize]byte
	n int
}

// ownPacketSize is the size of a packetBuffer: the tailnet's MTU of 1280, with room for a
// larger one.
const ownPacketSize = 1536

var packetBuffers = sync.Pool{New: func() any { return new(packetBuffer) }}

// link is the queue of packets towards the tailnet. Any goroutine may send; one receives. A packet
// in a queue is the receiver's. The queues are never closed, so that a late send does no harm.
type link struct {
	packets chan outgoing // of senders that may wait
	replies chan outgoing // of those that may not
	closed  chan struct{} // closed when the receiver is to return
	drops   *drops

	// partial is the packet, or the rest of a run, that did not fit into the reader's last
	// slab; zero for none. Only the reader uses it.
	partial outgoing

	// mu guards the queue of connections that have something to send, linked by turn.next.
	// Each is in it at most once (turn.queued). It may be taken with a connection's lock held,
	// not the reverse.
	mu         sync.Mutex
	head, tail *turn
	wake       chan struct{} // has a token while the queue is not empty, and perhaps after
}

// turn is a connection's place in the link's queue. Its fields other than of are guarded by link.mu.
type turn struct {
	of     puller
	queued bool
	next   *turn
}

// puller is a connection that builds its packets when the link's reader has room for them.
type puller interface {
	// pull adds packets that the connection has to send now to a slab. It returns false, and
	// adds none, if the slab has no room. Only the link's reader calls it.
	pull(to *packet.Slab) bool
}

func newLink(d *drops) *link {
	return &link{
		packets: make(chan outgoing, maxQueued), replies: make(chan outgoing, maxQueuedReplies),
		closed: make(chan struct{}), wake: make(chan struct{}, 1), drops: d,
	}
}

// want queues a connection whose packets the reader is to fetch, unless it is queued already.
// Connections take turns, and build each packet when the reader has room for it: no packet of theirs waits
// here, and what they send is never older than the latest acknowledgement.
func (l *link) want(t *turn) {
	l.mu.Lock()
	queued := t.queued
	if !queued {
		t.queued = true
		if l.tail == nil {
			l.head = t
		} else {
			l.tail.next = t
		}
		l.tail = t
	}
	l.mu.Unlock()
	if !queued {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// nextTurn takes a connection out of the queue; nil if there is none.
func (l *link) nextTurn() *turn {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.head
	if t == nil {
		return nil
	}
	l.head, t.next, t.queued = t.next, nil, false
	if l.head == nil {
		l.tail = nil
	}
	return t
}

// send waits for room in the queue. It takes ownership of p in any case, and returns false once the
// link is closed. Call it without a lock that packet delivery takes.
func (l *link) send(p outgoing) bool {
	if l.offer(p) {
		return true
	}
	select {
	case l.packets <- p:
		return true
	case <-l.closed:
		l.drop(p, dropClosed)
		return false
	}
}

// offer sends p if there is room, and takes ownership only then.
func (l *link) offer(p outgoing) bool {
	select {
	case l.packets <- p:
		return true
	default:
		return false
	}
}

// reply sends p, or drops it if there is no room. It never waits, and takes ownership of p.
func (l *link) reply(p outgoing) {
	select {
	case l.replies <- p:
	default:
		l.drop(p, dropLinkFull)
	}
}

// drop counts a packet as dropped and releases it.
func (l *link) drop(p outgoing, reason dropReason) {
	l.drops.add(reason, 1)
	p.release()
}

// empty reports whether all queues are empty.
func (l *link) empty() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head == nil && len(l.packets)+len(l.replies) == 0
}

// discard drops the packets that are queued when the link has been closed.
func (l *link) discard() {
	for {
		select {
		case p := <-l.packets:
			l.drop(p, dropClosed)
		case p := <-l.replies:
			l.drop(p, dropClosed)
		default:
			return
		}
	}
}

// release returns the packet to the pool or to where it comes from. It must not be used afterwards.
func (p outgoing) release() {
	if p.own != nil {
		packetBuffers.Put(p.own)
	}
	if p.run != nil {
		p.run.release()
	}
}

// receive waits for a packet, then adds as many as there are and fit to the slab. An empty slab has
// room for any packet of the data path, so each call takes at least one.
func (l *link) receive(to *packet.Slab) error {
	for {
		if l.fill(to); to.Len() > 0 {
			return nil
		}
		select {
		case l.partial = <-l.packets:
		case l.partial = <-l.replies:
		case <-l.wake:
		case <-l.closed:
			return ErrClosed
		}
	}
}

// fill adds one run of packets from each queue in turn until the slab is full, or nothing waits.
func (l *link) fill(to *packet.Slab) {
	for {
		idle := true
		for _, queue := range []chan outgoing{l.packets, l.replies} {
			next, ok := l.take(queue)
			if !ok {
				continue
			}
			idle = false
			added, all := next.addTo(to)
			if !all { // a packet, or the rest of a run, that the slab has no room for
				next.done += added
				l.partial = next
				return
			}
			if next.release(); to.Full() {
				return
			}
		}
		if t := l.nextTurn(); t != nil {
			idle = false
			if !t.of.pull(to) {
				l.want(t)
				return
			}
		}
		if idle {
			return
		}
	}
}

// take returns the packet that was begun before, or else one from a queue, if there is one.
func (l *link) take(queue chan outgoing) (p outgoing, ok bool) {
	if p = l.partial; p != (outgoing{}) {
		l.partial = outgoing{}
		return p, true
	}
	select {
	case p = <-queue:
		return p, true
	default:
		return outgoing{}, false
	}
}

// addTo adds as much of p to a slab as fits. It returns the number of packets added and whether p
// is complete.
func (p outgoing) addTo(to *packet.Slab) (n int, all bool) {
	if p.own != nil {
		b := to.Add(p.own.n)
		if b == nil {
			return 0, false
		}
		copy(b, p.own.b[:p.own.n])
		return 1, true
	}
	return p.run.addTo(p.done, to)
}
