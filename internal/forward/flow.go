package forward

import (
	"net/netip"
	"sync/atomic"
	"time"
)

// traffic counts one direction of a flow. For TCP, packets are reads.
type traffic struct{ bytes, packets atomic.Int64 }

// count adds bytes and packets. The two are not read together: a reader may see one of them first.
func (t *traffic) count(bytes, packets int) {
	t.bytes.Add(int64(bytes))
	t.packets.Add(int64(packets))
}

// A flow counts as busy for a moment after data from the target, and for longer after data from
// the client, whose reply may be due. While a TCP client lacks data, it counts as busy after each
// advance of the client's acknowledgements, for long enough to repeat a segment that was lost
// several times, at 0.2 to 1 s doubled each time. A client that is gone, or that has stopped
// reading, may stay silent for minutes: it must not take the quiet moment from the others.
const (
	busyAfterAnswer  = 100 * time.Millisecond
	busyAfterRequest = 2 * time.Second
	busyAfterAdvance = 5 * time.Second
)

// activity records the last time that data of a flow arrived, and from which side: an instant,
// negated for the client.
type activity struct{ last atomic.Int64 }

// at returns the instant of the last data.
func (t *activity) at() int64 {
	last := t.last.Load()
	return max(last, -last)
}

func (t *activity) fromClient() { t.last.Store(-instant(time.Now())) }
func (t *activity) fromTarget() { t.last.Store(instant(time.Now())) }

// busy reports whether an answer may be due, or more data of the same answer.
func (t *activity) busy(now time.Time) bool {
	last := t.last.Load()
	if last < 0 {
		return instant(now)+last < int64(busyAfterRequest)
	}
	return instant(now)-last < int64(busyAfterAnswer)
}

// Flow describes a flow, open or finished.
type Flow struct {
	Protocol Protocol // TCP or UDP
	// Client sent to Address; Target is the same, except for 4via6, where it is the IPv4
	// address.
	Client, Address, Target netip.AddrPort
	Opened                  time.Time
	// Duration is the time until now, or until the end.
	Duration time.Duration
	// Dial is the time that the target took to accept; TCP only.
	Dial time.Duration
	// Payload bytes and datagrams (TCP: reads) in each direction.
	ToVPCBytes, ToTailnetBytes     int64
	ToVPCPackets, ToTailnetPackets int64
	// Rule is that of [Admission] by which the flow was opened.
	Rule string
	// End is the reason why the flow ended; "" while it is open.
	End string
}

// record is the part of a flow that is common to all protocols. The fields in the first group do
// not change after the flow was created; dial is set once, before the flow is open. The others
// are atomic.
type record struct {
	protocol Protocol
	key      flowKey
	target   netip.AddrPort
	to       destination // that Admit decided about
	peer     *peer       // whose limit the flow counts against, until it is released
	route    *route
	rule     string // of [Config.Admit]
	opened   time.Time

	dial     time.Duration
	up, down traffic // towards the VPC, towards the tailnet
	activity activity
}

// common implements a part of flow.
func (r *record) common() *record { return r }

// describe returns the flow as it is now; end is "" while it is open.
func (r *record) describe(end string) Flow {
	return Flow{
		Protocol: r.protocol, Client: r.key.client, Address: r.key.dst, Target: r.target,
		Opened: r.opened, Duration: time.Since(r.opened), Dial: r.dial,
		ToVPCBytes: r.up.bytes.Load(), ToTailnetBytes: r.down.bytes.Load(),
		ToVPCPackets: r.up.packets.Load(), ToTailnetPackets: r.down.packets.Load(),
		Rule: r.rule, End: end,
	}
}
