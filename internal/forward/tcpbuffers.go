package forward

import "gvisor.dev/gvisor/pkg/tcpip"

// The methods below run in the flow's task.

// longPath returns the size in bytes that a buffer may have because of the path's round-trip
// time: twice what arrives in one.
func (fl *tcpFlow) longPath() int64 {
	var info tcpip.TCPInfoOption
	if fl.ep.GetSockOpt(&info) == nil && info.RTT > 0 && (fl.minRTT == 0 || info.RTT < fl.minRTT) {
		fl.minRTT = info.RTT
	}
	return min(int64(2*fastPath*fl.minRTT.Seconds()), maxBuffer)
}

// limitSend shrinks the send buffer to the flow's share, and to what its path needs. Data
// beyond it stays; the target waits until the client has acknowledged enough.
func (fl *tcpFlow) limitSend() {
	options := fl.ep.SocketOptions()
	size := options.GetSendBufferSize()
	if size > shortSend {
		if limit := max(shortSend, fl.longPath()); size > limit {
			// For good: the stack would let it grow, and wake the flow, with each
			// acknowledgement.
			options.SetSendBufferSize(limit, true)
			size = limit
		}
	}
	if share := fl.table.memory.share(); size > share {
		options.SetSendBufferSize(share, false) // the stack may let it grow again
	}
}

// growReceive lets the receive buffer grow after the target has taken n bytes of it, within the
// flow's share and what its path needs. It never shrinks: the client may fill the window that
// was announced to it.
func (fl *tcpFlow) growReceive(n int) {
	size := fl.ep.SocketOptions().GetReceiveBufferSize()
	if size >= maxBuffer || size >= fl.table.memory.share() || size >= shortReceive && size >= fl.longPath() {
		return
	}
	fl.ep.ModerateRecvBuf(n)
}

// updateHeld updates the flow's part of the budget: the buffers that are full because the other
// side does not keep up, and the part of the receive buffer beyond its initial size, which the
// client may fill at any time.
func (fl *tcpFlow) updateHeld() {
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
		fl.table.memory.used.Add(n - fl.held)
		fl.held = n
	}
}
