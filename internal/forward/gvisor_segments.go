//go:build !omit_gvisor

package forward

import (
	"bytes"
	"errors"
	"net/netip"
	"time"

	"subnetrouter/internal/packet"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// tcpBatch hands segments to the stack, merged with others of their connection that are in
// order.
type tcpBatch struct {
	t   *tcpTable
	run packet.Coalescer
}

// newBatch returns a batch whose runs go to the stack.
func (t *tcpTable) newBatch() batch {
	return &tcpBatch{t: t, run: packet.Coalescer{Sink: t.endpoint}}
}

// deliver verifies the checksums, on which the stack relies. It looks for the segment's connection
// only if a peer router may have it, and for SYNs: a segment of no connection is reset by the
// stack, and a SYN that the stack does not know opens a flow.
func (b *tcpBatch) deliver(p *packet.Packet, peers PeerRouters) {
	segment, err := p.Segment()
	if err != nil {
		reason := dropMalformed
		if errors.Is(err, packet.ErrChecksum) {
			reason = dropChecksum
		}
		b.t.drops.add(reason, 1)
		return
	}
	opens := packet.OpensConnection(segment)
	if !opens && peers.MayHaveFlow() && b.t.endpoint.find(p, segment) == nil && relayedAway(peers, p.Raw) {
		return
	}
	if opens && b.t.endpoint.closing(p, segment) {
		b.t.deferSYN(p)
		return
	}
	b.run.Add(p, segment)
}

// deliverRelayed returns RelayedReset for a segment of no connection: the stack answers it with a
// reset, which ends a connection that no router has.
func (b *tcpBatch) deliverRelayed(p *packet.Packet) Relayed {
	segment, err := p.Segment()
	if err != nil || packet.OpensConnection(segment) {
		return RelayedRefused
	}
	src, dst := packet.SegmentPorts(segment)
	key := flowKey{netip.AddrPortFrom(p.Src, src), netip.AddrPortFrom(p.Dst, dst)}
	if b.t.rules.check(packet.ProtoTCP, key) != allowed {
		return RelayedRefused
	}
	found := b.t.endpoint.find(p, segment) != nil
	b.run.Add(p, segment)
	if !found {
		return RelayedReset
	}
	return RelayedTaken
}

func (b *tcpBatch) flush() { b.run.Flush() }

// A client that reuses a port immediately sends its SYN right after the last acknowledgement of
// the previous connection. The stack would queue both for the old endpoint and reset the new
// connection when that endpoint closes: it looks for a listener, and a forwarder is not one. So
// the SYN is deferred until the old connection is gone.
const (
	synRetryEvery  = 2 * time.Millisecond
	maxSYNRetries  = 500
	maxPendingSYNs = 1024
)

// deferSYN delivers a copy of a SYN once the old connection is gone, or after a second in any
// case. It drops the SYN, which the client will retransmit, if too many are pending.
func (t *tcpTable) deferSYN(p *packet.Packet) {
	if t.pendingSYNs.Add(1) > maxPendingSYNs {
		t.pendingSYNs.Add(-1)
		t.drops.add(dropSYNLimit, 1)
		return
	}
	t.retrySYN(bytes.Clone(p.Raw), maxSYNRetries)
}

// retrySYN delivers raw, a SYN that is counted as pending, later. The count ends when the stack has
// the SYN.
func (t *tcpTable) retrySYN(raw []byte, retries int) {
	time.AfterFunc(synRetryEvery, func() {
		var p packet.Packet
		if !p.Parse(raw) {
			t.pendingSYNs.Add(-1)
			return
		}
		if retries > 0 && t.endpoint.closing(&p, p.Payload()) {
			t.retrySYN(raw, retries-1)
			return
		}
		t.pendingSYNs.Add(-1)
		t.endpoint.Single(&p)
	})
}

// closing reports whether a SYN meets a connection with the same addresses and ports that at
// least one side has closed.
func (e *linkEndpoint) closing(p *packet.Packet, segment []byte) bool {
	ep := e.find(p, segment)
	if ep == nil {
		return false
	}
	switch ep.EndpointState() {
	case tcp.StateEstablished, tcp.StateSynRecv, tcp.StateSynSent, tcp.StateConnecting:
		return false // a retransmitted or forged SYN: the stack handles it
	default:
		return true
	}
}

// find returns the connection that a segment belongs to, or nil. It may be closed by the time it
// is used: the result is a hint.
func (e *linkEndpoint) find(p *packet.Packet, segment []byte) *tcp.Endpoint {
	src, dst := packet.SegmentPorts(segment)
	ep, _ := e.stack.FindTransportEndpoint(networkOf(p), tcp.ProtocolNumber, stack.TransportEndpointID{
		LocalAddress: tcpip.AddrFromSlice(p.Dst.AsSlice()), LocalPort: dst,
		RemoteAddress: tcpip.AddrFromSlice(p.Src.AsSlice()), RemotePort: src,
	}, nicID).(*tcp.Endpoint)
	return ep
}
