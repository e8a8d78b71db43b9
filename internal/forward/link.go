package forward

import (
	"errors"
	"sync"

	"subnetrouter/internal/packet"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
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

// outgoing is a packet for a peer: one that the data path built, or one of the stack, which may
// be a run of segments. Exactly one of own and stack is set. The holder of an outgoing owns it,
// passes it on or releases it, once.
type outgoing struct {
	own   *packetBuffer
	stack *stack.PacketBuffer // with a reference of its own
	done  int                 // segments of the run that were sent already
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

	// partial is the run that did not fit into the reader's last call. Only the reader uses
	// it.
	partial *outgoing
}

func newLink(d *drops) *link {
	return &link{
		packets: make(chan outgoing, maxQueued), replies: make(chan outgoing, maxQueuedReplies),
		closed: make(chan struct{}), drops: d,
	}
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

// empty reports whether both queues are empty.
func (l *link) empty() bool { return len(l.packets)+len(l.replies) == 0 }

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

// release returns the packet to the pool or the stack. It must not be used afterwards.
func (p outgoing) release() {
	if p.own != nil {
		packetBuffers.Put(p.own)
	}
	if p.stack != nil {
		p.stack.DecRef()
	}
}

// receive waits for a packet, then takes as many queued ones as fit: packet i is copied to
// bufs[i][offset:], and its length to sizes[i].
func (l *link) receive(bufs [][]byte, sizes []int, offset int) (n int, err error) {
	var next outgoing
	var ok bool
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
		if !all { // a run with more segments than bufs has left
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

// nextReply takes a reply out of the queue, if there is one.
func (l *link) nextReply() (p outgoing, ok bool) {
	select {
	case p = <-l.replies:
		return p, true
	default:
		return outgoing{}, false
	}
}

// copyTo writes as much of p as fits. It returns the number of packets written and whether p is
// complete.
func (p outgoing) copyTo(bufs [][]byte, sizes []int, offset int) (n int, all bool) {
	if p.own != nil {
		sizes[0] = copy(bufs[0][offset:], p.own.b[:p.own.n])
		return 1, true
	}
	return copyStack(p.stack, p.done, bufs, sizes, offset)
}

// copyStack writes the packets of pkt from number from, as [packet.SegmentRun.Split] does. The
// stack left the checksums of TCP out, and only those.
func copyStack(pkt *stack.PacketBuffer, from int, bufs [][]byte, sizes []int, offset int) (n int, all bool) {
	if pkt.TransportProtocolNumber != header.TCPProtocolNumber {
		end := offset
		for _, piece := range pkt.AsSlices() {
			end += copy(bufs[0][end:], piece)
		}
		sizes[0] = end - offset
		return 1, true
	}
	run := packet.SegmentRun{
		IP: pkt.NetworkHeader().Slice(), TCP: pkt.TransportHeader().Slice(),
		Pieces: pkt.AsSlices(), Size: pkt.Data().Size(), MSS: pkt.Data().Size(),
	}
	if pkt.GSOOptions.Type != stack.GSONone {
		run.MSS = int(pkt.GSOOptions.MSS)
	}
	return run.Split(from, bufs, sizes, offset)
}
