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

// packetBuffer is a pooled buffer with a packet for a peer, b[:n]. Its content is undefined when it
// comes out of the pool. Its holder owns it, and passes it on or releases it, once.
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
	packets chan *packetBuffer // of senders that may wait
	replies chan *packetBuffer // of those that may not
	closed  chan struct{}      // closed when the receiver is to return
	drops   *drops

	// partial is the packet that did not fit into the reader's last slab, or nil. Only the
	// reader uses it.
	partial *packetBuffer

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
		packets: make(chan *packetBuffer, maxQueued), replies: make(chan *packetBuffer, maxQueuedReplies),
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
func (l *link) send(p *packetBuffer) bool {
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
func (l *link) offer(p *packetBuffer) bool {
	select {
	case l.packets <- p:
		return true
	default:
		return false
	}
}

// reply sends p, or drops it if there is no room. It never waits, and takes ownership of p.
func (l *link) reply(p *packetBuffer) {
	select {
	case l.replies <- p:
	default:
		l.drop(p, dropLinkFull)
	}
}

// drop counts a packet as dropped and releases it.
func (l *link) drop(p *packetBuffer, reason dropReason) {
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

// release returns the packet to the pool. It must not be used afterwards.
func (p *packetBuffer) release() { packetBuffers.Put(p) }

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

// fill adds one packet from each queue, or all of one connection, in turn until the slab is full,
// or nothing waits.
func (l *link) fill(to *packet.Slab) {
	for {
		idle := true
		for _, queue := range []chan *packetBuffer{l.packets, l.replies} {
			next := l.take(queue)
			if next == nil {
				continue
			}
			idle = false
			b := to.Add(next.n)
			if b == nil {
				l.partial = next
				return
			}
			copy(b, next.b[:next.n])
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

// take returns the packet that did not fit before, or else one from a queue; nil if there is none.
func (l *link) take(queue chan *packetBuffer) *packetBuffer {
	if p := l.partial; p != nil {
		l.partial = nil
		return p
	}
	select {
	case p := <-queue:
		return p
	default:
		return nil
	}
}
