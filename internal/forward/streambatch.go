package forward

import (
	"bytes"
	"errors"

	"subnetrouter/internal/packet"
	"subnetrouter/internal/tcp"
)

// streamBatch passes segments to their flows' connections. What a flow has to do because of them
// is decided once for each run of segments of the same flow.
type streamBatch struct {
	t    *streamTable
	last *streamFlow // the flow of the last segment, not settled yet; nil for none
	key  flowKey     // of last
	seg  tcp.Segment
}

func (t *streamTable) newBatch() batch { return &streamBatch{t: t} }

// deliver answers a segment of no connection with a reset, unless a peer router takes it.
func (b *streamBatch) deliver(p *packet.Packet, peers PeerRouters) {
	segment, ok := b.parse(p)
	if !ok {
		return
	}
	key := segmentKey(p, segment)
	fl := b.find(key)
	switch {
	case fl != nil && packet.OpensConnection(segment):
		b.repeated(fl, p)
	case fl != nil:
		b.pass(fl)
	case packet.OpensConnection(segment):
		b.t.open(p, &b.seg, key)
	case peers.MayHaveFlow() && relayedAway(peers, p.Raw):
	default:
		b.t.sender.reset(p, segment)
	}
}

// deliverRelayed returns RelayedReset for a segment of no connection, which is answered with a
// reset: it ends a connection that no router has.
func (b *streamBatch) deliverRelayed(p *packet.Packet) Relayed {
	segment, ok := b.parse(p)
	if !ok || packet.OpensConnection(segment) {
		return RelayedRefused
	}
	key := segmentKey(p, segment)
	if b.t.rules.check(packet.ProtoTCP, key) != allowed {
		return RelayedRefused
	}
	fl := b.find(key)
	if fl == nil {
		b.t.sender.reset(p, segment)
		return RelayedReset
	}
	b.pass(fl)
	return RelayedTaken
}

// parse verifies a packet's checksums and fills seg. It counts a packet that it refuses.
func (b *streamBatch) parse(p *packet.Packet) (segment []byte, ok bool) {
	segment, err := p.Segment()
	if err == nil {
		b.seg, err = tcp.Parse(segment)
	}
	if err != nil {
		reason := dropMalformed
		if errors.Is(err, packet.ErrChecksum) {
			reason = dropChecksum
		}
		b.t.drops.add(reason, 1)
		return nil, false
	}
	return segment, true
}

// find returns the flow with a key, or nil. Segments of one flow usually follow one another.
func (b *streamBatch) find(key flowKey) *streamFlow {
	if b.last != nil && b.key == key && b.last.stage.Load() != stageClosed {
		return b.last
	}
	return b.t.find(key)
}

// pass gives seg to a flow's connection.
func (b *streamBatch) pass(fl *streamFlow) {
	if b.last != fl {
		b.settleLast()
		b.last, b.key = fl, fl.key
	}
	fl.mu.Lock()
	fl.conn.Deliver(streamNow(), &b.seg)
	fl.mu.Unlock()
}

// repeated handles a SYN for a flow that exists. The connection answers a repeated one, and
// challenges any other: a client that has forgotten the connection then resets it, and the SYN
// kept here opens the next one at once, without waiting for the client to repeat it.
func (b *streamBatch) repeated(fl *streamFlow, p *packet.Packet) {
	fl.mu.Lock()
	switch {
	case fl.conn.Repeats(&b.seg) || len(p.Raw) > maxSYN:
	case fl.conn.State() == tcp.Received: // it takes the place of the first, which has no answer yet
		fl.syn = bytes.Clone(p.Raw)
	default:
		fl.nextSYN = pendingSYN{bytes.Clone(p.Raw), streamNow()}
	}
	fl.mu.Unlock()
	b.pass(fl)
}

// flush settles the last flow, and forgets its segment, whose bytes are no longer valid.
func (b *streamBatch) flush() {
	b.settleLast()
	b.last, b.key, b.seg = nil, flowKey{}, tcp.Segment{}
}

func (b *streamBatch) settleLast() {
	if fl := b.last; fl != nil {
		fl.mu.Lock()
		fl.settle(streamNow())
		fl.mu.Unlock()
	}
}
