//go:build !omit_gvisor

package forward

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// The methods below run in the flow's task.

// noteRTT notes the round-trip time to the client. One that varies much is that of a busy
// machine rather than a long path, and does not count.
func (fl *tcpFlow) noteRTT(info *tcpip.TCPInfoOption) {
	if steady := info.RTT > 0 && info.RTTVar <= info.RTT/4; steady && (fl.minRTT == 0 || info.RTT < fl.minRTT) {
		fl.minRTT = info.RTT
	}
}

// needOf returns the size in bytes that a buffer may have because of a path's round-trip time:
// twice what arrives in one.
func needOf(rtt time.Duration) int64 { return min(int64(2*fastPath*rtt.Seconds()), maxBuffer) }

// limitSend shrinks the send buffer to the flow's share. Data beyond it stays; the target waits
// until the client has acknowledged enough.
func (fl *tcpFlow) limitSend() {
	options := fl.ep.SocketOptions()
	if share := fl.table.memory.share(); options.GetSendBufferSize() > share {
		options.SetSendBufferSize(share, false)
	}
}

// growSend lets a full send buffer grow to twice the congestion window, within the flow's share
// and the need of its path. The stack's own tuning is off: it would wake the flow with each
// acknowledgement while the buffer is larger than one of these allows.
func (fl *tcpFlow) growSend() {
	var info tcpip.TCPInfoOption
	if fl.ep.GetSockOpt(&info) != nil {
		return
	}
	fl.noteRTT(&info)
	options := fl.ep.SocketOptions()
	limit := min(max(shortSend, needOf(fl.minRTT)), fl.table.memory.share())
	size := min(2*int64(info.SndCwnd)*int64(fl.table.sender.mtu), limit)
	if size > options.GetSendBufferSize() {
		options.SetSendBufferSize(size, true) // true: wakes the flow
	}
}

// growReceive lets the receive buffer grow after the target has taken n bytes of it, within the
// flow's share and the need of its path. It never shrinks: the client may fill the window that
// was announced to it. A flow that sends little has no other sample of the round-trip time than
// that of its handshake, so the lowest of all handshakes with the client counts.
func (fl *tcpFlow) growReceive(n int) {
	size := fl.ep.SocketOptions().GetReceiveBufferSize()
	limit := max(shortReceive, needOf(time.Duration(fl.peer.handshake.Load())))
	if size < min(limit, fl.table.memory.share()) {
		fl.ep.ModerateRecvBuf(n)
	}
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
