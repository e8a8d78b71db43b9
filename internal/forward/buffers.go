package forward

import "sync/atomic"

// Limits of the buffers of a TCP connection towards the tailnet, in bytes for each direction. Package
// tcp lets a buffer grow with the bandwidth-delay product of its path, and allocates its memory only
// as data waits in it.
const (
	// maxBuffer is the largest size on a long path: 300 Mbit/s over a round-trip time of
	// 80 ms, twice, since data also waits for retransmissions.
	maxBuffer = 6 << 20
	// minBuffer is a flow's share when others have used up the budget: a client's usual
	// first flight of ten segments, and some.
	minBuffer = 16 << 10
	// flowPart is the inverse of the part of the free budget that one direction of a flow
	// may take.
	flowPart = 8
)

// defaultBuffers is the budget if there is no memory limit.
const defaultBuffers = 256 << 20

// bufferBudget bounds the memory of the TCP flows' buffers: targets and clients that stop
// reading cannot fill it, however many there are. It counts data, not flows: idle flows take
// nothing from others. The zero value has an empty budget.
type bufferBudget struct {
	total atomic.Int64 // bytes
	// used is the sum of all flows' streamFlow.held, of all ownConn.held, of reserve and of reserveFront, in bytes.
	used atomic.Int64
	// dialed is the part of used that belongs to connections from the VPC into the tailnet: of dialed ownConns, and
	// of reserve.
	dialed atomic.Int64
	// fronts is the part of used that belongs to reserveFront.
	fronts atomic.Int64
}

// setMemory derives the budget from the process's memory limit in bytes; 0 means none.
func (b *bufferBudget) setMemory(limit int64) {
	if limit <= 0 {
		b.total.Store(defaultBuffers)
		return
	}
	b.total.Store(limit / 4)
}

// peerPart is the inverse of the part of the whole budget that the flows of one node may fill
// together, apart from minBuffer for each: what is left is for the others.
const peerPart = 2

// sparePart is the inverse of the part of the whole budget that reserve gives even if flows have filled the budget, so
// that clients that stop reading do not keep programs of the VPC out of the tailnet.
const sparePart = 8

// reserve takes n bytes for a connection from the VPC into the tailnet, until release returns them. It returns false if
// the budget has no room, or those connections together have their part of it, as the flows of one node.
func (b *bufferBudget) reserve(n int64) bool {
	total := b.total.Load()
	used, dialed := b.used.Add(n), b.dialed.Add(n)
	if dialed <= total/sparePart || used <= total && dialed <= total/peerPart {
		return true
	}
	b.release(n)
	return false
}

// release returns bytes of reserve.
func (b *bufferBudget) release(n int64) {
	b.used.Add(-n)
	b.dialed.Add(-n)
}

// frontPart is the inverse of the part of the budget that the fronts of served ports have at most. It is apart from that
// of connections into the tailnet, since clients of the tailnet use it up.
const frontPart = 4

// reserveFront takes n bytes for a connection of a front, until releaseFront returns them. It returns false if there is
// no room.
func (b *bufferBudget) reserveFront(n int64) bool {
	total := b.total.Load()
	if used, fronts := b.used.Add(n), b.fronts.Add(n); used <= total && fronts <= total/frontPart {
		return true
	}
	b.releaseFront(n)
	return false
}

func (b *bufferBudget) releaseFront(n int64) {
	b.used.Add(-n)
	b.fronts.Add(-n)
}

// shareOf is share for a flow of one node, all of whose flows hold a number of bytes.
func (b *bufferBudget) shareOf(held int64) int64 {
	return max(min(b.share(), (b.total.Load()/peerPart-held)/flowPart), minBuffer)
}

// share returns the size in bytes that a flow's buffer may have now, in each direction.
func (b *bufferBudget) share() int64 {
	return min(max((b.total.Load()-b.used.Load())/flowPart, minBuffer), maxBuffer)
}
