package forward

import "sync/atomic"

// Buffers of a TCP connection towards the tailnet, in bytes. A connection begins with the
// initial size in each direction. The stack lets a buffer grow with the bandwidth-delay product
// of its path: the send buffer with the congestion window, the receive buffer with the data
// that the target takes in a round trip. Their memory is allocated only as data waits in them.
const (
	initialBuffer = 256 << 10
	// maxBuffer allows 300 Mbit/s over a round-trip time of 80 ms, twice: for data in flight,
	// and for data that waits for a retransmission.
	maxBuffer = 6 << 20
	// minBuffer is a flow's share when others have used up the budget: one and a half times
	// a client's usual first flight of ten segments.
	minBuffer = 16 << 10
	// flowPart is the inverse of the part of the free budget that one direction of a flow
	// may take.
	flowPart = 8
)

// defaultBuffers is the budget if there is no memory limit.
const defaultBuffers = 256 << 20

// bufferBudget bounds the memory of the TCP flows' buffers: targets and clients that stop
// reading cannot fill it, however many there are. It counts what is buffered, so that idle
// flows take nothing from others. The zero value has an empty budget.
type bufferBudget struct {
	total atomic.Int64 // bytes
	// used is the sum of all flows' tcpFlow.held, in bytes.
	used atomic.Int64
}

// setMemory derives the budget from the process's memory limit in bytes; 0 means none.
func (b *bufferBudget) setMemory(limit int64) {
	if limit <= 0 {
		b.total.Store(defaultBuffers)
		return
	}
	b.total.Store(limit / 4)
}

// share returns the size in bytes that a flow's buffer may have now, in each direction.
func (b *bufferBudget) share() int64 {
	return min(max((b.total.Load()-b.used.Load())/flowPart, minBuffer), maxBuffer)
}

// The methods below run in the flow's task.

// limitSend shrinks the send buffer to the flow's share. Data beyond it stays; the target waits
// until the client has acknowledged enough.
func (fl *tcpFlow) limitSend() {
	options := fl.ep.SocketOptions()
	if share := fl.table.f.memory.share(); options.GetSendBufferSize() > share {
		options.SetSendBufferSize(share, false) // false: the stack may let it grow again
	}
}

// growReceive lets the receive buffer grow after the target has taken n bytes of it, within the
// flow's share. It never shrinks: the client may fill the window that it was told of.
func (fl *tcpFlow) growReceive(n int) {
	if size := fl.ep.SocketOptions().GetReceiveBufferSize(); size < maxBuffer && size < fl.table.f.memory.share() {
		fl.ep.ModerateRecvBuf(n)
	}
}

// account updates the flow's part of the budget: the buffers that are full because the other
// side does not keep up, and the part of the receive buffer beyond its initial size, which the
// client may fill at any time.
func (fl *tcpFlow) account() {
	options := fl.ep.SocketOptions()
	receive := options.GetReceiveBufferSize()
	held := max(receive-initialBuffer, 0)
	if fl.upward.blocked {
		held += min(receive, initialBuffer)
	}
	if fl.downward.blocked {
		held += options.GetSendBufferSize()
	}
	fl.hold(held)
}

// hold sets the flow's part of the budget, in bytes.
func (fl *tcpFlow) hold(n int64) {
	if n != fl.held {
		fl.table.f.memory.used.Add(n - fl.held)
		fl.held = n
	}
}
