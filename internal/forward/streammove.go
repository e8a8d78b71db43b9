package forward

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"time"

	"subnetrouter/internal/packet"
	"subnetrouter/internal/tcp"

	"golang.org/x/sys/unix"
)

// moveBudget is the number of reads, or writes, that a flow may make in each direction before other
// flows get a turn.
const moveBudget = 16

// move moves bytes in both directions, and passes the ends of streams on. It returns true if more
// can be moved, once other flows had a turn. It needs mu.
func (fl *streamFlow) move(now time.Duration) (more bool) {
	c := fl.conn
	fl.resize()
	up := fl.moveUp(now)
	down := fl.moveDown(now)
	fl.countKernel()
	if fl.reason == "" && (fl.sawEOF || fl.blocked) && !fl.shut && socketError(fl.fd) != nil {
		// No read or write would return the error: that direction is closed or waits.
		fl.breakOff(now)
	}
	if fl.broken && !c.Unacked() && fl.reason == "" {
		fl.fail(now, failed)
	}
	return (up || down) && fl.reason == ""
}

// breakOff begins the end of a flow whose target's connection ended with an error: the client gets what
// the target sent before, and then a reset. What the client sends is dropped.
func (fl *streamFlow) breakOff(now time.Duration) {
	fl.broken, fl.failing, fl.blocked, fl.starved = true, true, false, false
	fl.conn.Consume(now, fl.conn.Available())
}

// maxNotSent bounds the bytes that wait in the kernel for their transmission to the target. In a VPC
// it is the volume of 2 Gbit/s in a millisecond, the longest that the socket may wait for a worker.
const maxNotSent = 256 << 10

// A share of at most scarce bytes means that the budget is nearly used up. The kernel's buffer for what
// the target sends then has leastReceive bytes; otherwise the kernel tunes it itself, from 128 KiB up,
// by the speed at which the router reads.
const (
	scarce       = 2 * minBuffer
	leastReceive = 4 << 10
)

// resize sets the connection's limits, and the bounds of the kernel's buffers, to the flow's share of
// the memory. The kernel's follow in powers of two, so that they rarely cost a call.
func (fl *streamFlow) resize() {
	share := int(fl.table.memory.shareOf(fl.peer.held.Load()))
	fl.conn.SetLimits(share, share)
	bound := 1 << bits.Len(uint(share))
	if bound == fl.bound {
		return
	}
	fl.bound = bound
	boundNotSent(fl.fd, min(bound, maxNotSent))
	switch {
	case share <= scarce:
		fl.bounded = true
		boundReceive(fl.fd, leastReceive)
	case fl.bounded:
		boundReceive(fl.fd, bound)
	}
}

// countKernel counts the bytes that wait in the kernel because a side does not take them: they are a
// part of the flow's memory. It needs mu.
func (fl *streamFlow) countKernel() {
	fl.kernel = 0
	if fl.starved {
		fl.kernel += int64(readableBytes(fl.fd))
	}
	if fl.blocked {
		fl.kernel += int64(unsent(fl.fd))
	}
}

// moveUp writes what the client sent to the target, from the connection's memory.
func (fl *streamFlow) moveUp(now time.Duration) (more bool) {
	c := fl.conn
	fl.blocked = false
	for range moveBudget {
		if c.Available() == 0 {
			break
		}
		n, err := fl.write()
		if n > 0 {
			fl.activity.fromClient()
			fl.table.account.sentUp(&fl.record, n, 1)
			c.Consume(now, n)
		}
		if err != nil {
			if wouldBlock(err) {
				fl.blocked = true
				return false
			}
			// The target takes no more data, but its last answer may still be read.
			fl.failing = true
		}
		if fl.failing {
			c.Consume(now, c.Available())
		}
	}
	if c.Available() > 0 {
		return true
	}
	if fl.mayShut() {
		fl.shut = true
		unix.Shutdown(fl.fd, unix.SHUT_WR)
	}
	return false
}

// mayShut reports whether the end of the client's stream is to be passed on. A connection that ended with
// an error has lost bytes before that end.
func (fl *streamFlow) mayShut() bool {
	return fl.conn.ReceivedFIN() && fl.conn.Err() == nil && !fl.shut
}

// write writes to the target what waits in the connection: up to the client's urgent byte, or that
// byte, as urgent too.
func (fl *streamFlow) write() (n int, err error) {
	pieces := fl.conn.Peek()
	if mark, ok := fl.conn.UrgentMark(); ok && mark == 0 {
		return unix.SendmsgN(fl.fd, pieces[0][:1], nil, nil, unix.MSG_OOB)
	} else if ok {
		pieces = firstBytes(pieces, mark)
	}
	for {
		n, err = writePieces(fl.fd, pieces)
		if err == nil || !errors.Is(err, unix.EINTR) {
			return max(n, 0), err
		}
	}
}

// firstBytes cuts pieces after n bytes in all; n is positive.
func firstBytes(pieces [][]byte, n int) [][]byte {
	for i, b := range pieces {
		if n <= len(b) {
			pieces[i] = b[:n]
			return pieces[:i+1]
		}
		n -= len(b)
	}
	return pieces
}

// moveDown reads from the target into the connection's memory, as much as the path can use.
func (fl *streamFlow) moveDown(now time.Duration) (more bool) {
	c := fl.conn
	fl.starved = false
	if fl.sawEOF || fl.broken {
		return false
	}
	for range moveBudget {
		room := c.Room()
		if room == 0 {
			fl.starved = true
			return false
		}
		mark := fl.urgent.Load() && atMark(fl.fd)
		if mark {
			room = 1
		}
		n, err := unix.Read(fl.fd, c.Buffer(room))
		c.Commit(now, max(n, 0))
		switch {
		case err == unix.EINTR:
		case err != nil && wouldBlock(err):
			return false
		case err != nil:
			fl.breakOff(now)
			return false
		case n == 0:
			fl.sawEOF = true
			c.CloseWrite(now)
			return false
		default:
			if mark {
				fl.urgent.Store(false)
				c.MarkUrgent()
			}
			fl.activity.fromTarget()
			fl.table.account.sentDown(&fl.record, n, 1)
		}
	}
	return true
}

// pull implements [puller].
func (fl *streamFlow) pull(to *packet.Slab) bool {
	room := to.Room(fl.table.sender.mtu)
	if room == 0 {
		return false
	}
	fl.mu.Lock()
	defer fl.mu.Unlock()
	now := streamNow()
	if putRun(fl.conn, now, fl.key, room, to) {
		fl.settle(now)
	} else {
		fl.schedule(now)
	}
	return true
}

// putRun adds the packets of a connection's next run to a slab, as long as it has room for them. It
// returns false if nothing is to be sent now.
func putRun(c *tcp.Conn, now time.Duration, key flowKey, room int, to *packet.Slab) bool {
	run := tcp.Run{MaxSegments: room}
	if !c.Next(now, &run) {
		return false
	}
	var ip [packet.IPv6Header]byte
	header := ip[:packet.HeaderSize(key.dst.Addr())]
	packet.PutIP(header, key.dst.Addr(), key.client.Addr(), packet.ProtoTCP)
	binary.BigEndian.PutUint16(run.Header, key.dst.Port())
	binary.BigEndian.PutUint16(run.Header[2:], key.client.Port())
	segments := packet.SegmentRun{IP: header, TCP: run.Header, Pieces: run.Pieces, Size: run.Size, MSS: run.MSS}
	segments.Split(0, to)
	return true
}
