package forward

import (
	"errors"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// queued bounds what waits for the tailnet. Senders wait when it is full, so
// that what is slow (encryption, the network) slows what is fast: targets are
// read no faster than peers take it.
const maxQueued = 256

// queuedReplies bounds what packet delivery itself answers, for which it never waits:
// ICMP errors and resets. They have a queue of their own, since a bulk transfer keeps
// the other one full.
const maxQueuedReplies = 256

// ErrClosed says that the forwarder was closed.
var ErrClosed = errors.New("forwarder closed")

// outgoing is a packet for a peer: bytes of our own making, or one of the stack,
// which may be a run of segments.
type outgoing struct {
	own   *packetBuffer
	stack *stack.PacketBuffer
	done  int // segments of the run that have gone already
}

// packetBuffer is pooled; n bytes of it count.
type packetBuffer struct {
	b [ownPacketSize]byte
	n int
}

// ownPacketSize is the tailnet's MTU of 1280, rounded up for one that is larger.
const ownPacketSize = 1536

var packetBuffers = sync.Pool{New: func() any { return new(packetBuffer) }}

// link is the queue of packets towards the tailnet.
type link struct {
	packets chan outgoing
	replies chan outgoing
	closed  chan struct{}
	drops   *drops

	// Of the one reader: what the last call had no room for.
	partial *outgoing
}

func newLink(d *drops) *link {
	return &link{
		packets: make(chan outgoing, maxQueued), replies: make(chan outgoing, maxQueuedReplies),
		closed: make(chan struct{}), drops: d,
	}
}

// send waits for room. It owns p.
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

// offer sends p if there is room, and owns it only then.
func (l *link) offer(p outgoing) bool {
	select {
	case l.packets <- p:
		return true
	default:
		return false
	}
}

// reply drops p if there is no room. It never waits, and owns p.
func (l *link) reply(p outgoing) {
	select {
	case l.replies <- p:
	default:
		l.drop(p, dropLinkFull)
	}
}

func (l *link) drop(p outgoing, why dropReason) {
	l.drops.add(why, 1)
	p.release()
}

// empty reports whether nothing waits.
func (l *link) empty() bool { return len(l.packets)+len(l.replies) == 0 }

// discard drops what still waits after the link was closed.
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

func (p outgoing) release() {
	if p.own != nil {
		packetBuffers.Put(p.own)
	}
	if p.stack != nil {
		p.stack.DecRef()
	}
}

// receive waits for a packet, then takes as many as are there and fit: packet i
// goes to bufs[i][offset:], its length to sizes[i].
func (l *link) receive(bufs [][]byte, sizes []int, offset int) (n int, err error) {
	next, ok := outgoing{}, false
	if l.partial != nil {
		next, ok, l.partial = *l.partial, true, nil
	} else if next, ok = l.nextReply(); !ok {
		select {
		case next = <-l.packets:
			ok = true
		case next = <-l.replies:
			ok = true
		case <-l.closed:
			return 0, ErrClosed
		}
	}
	for ok {
		took, all := next.copyTo(bufs[n:], sizes[n:], offset)
		n += took
		if !all { // a run that needs more room, now or more than once
			next.done += took
			l.partial = &next
			break
		}
		next.release()
		if n == len(bufs) {
			break
		}
		select {
		case next = <-l.packets:
		default:
			next, ok = l.nextReply()
		}
	}
	return n, nil
}

func (l *link) nextReply() (p outgoing, ok bool) {
	select {
	case p = <-l.replies:
		return p, true
	default:
		return outgoing{}, false
	}
}

// copyTo writes as much of p as there is room for, and reports how many packets
// that came to and whether it was all.
func (p outgoing) copyTo(bufs [][]byte, sizes []int, offset int) (n int, all bool) {
	if p.own != nil {
		sizes[0] = copy(bufs[0][offset:], p.own.b[:p.own.n])
		return 1, true
	}
	return segment(p.stack, p.done, bufs, sizes, offset)
}
