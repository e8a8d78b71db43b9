package forward

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// traffic counts one direction of a flow. For TCP, packets are reads.
type traffic struct{ bytes, packets atomic.Int64 }

func (t *traffic) count(bytes, packets int) {
	t.bytes.Add(int64(bytes))
	t.packets.Add(int64(packets))
}

// The reasons why flows end. The set is closed because it is a metric's label.
const (
	ended   = "ended"   // both sides closed; for DNS, every query was answered
	idled   = "idle"    // no data for too long
	failed  = "failed"  // one side was reset or disappeared
	cut     = "cut"     // by the router, in a drain
	revoked = "revoked" // by the router, because it is no longer allowed
)

// Flow describes a flow, open or finished.
type Flow struct {
	Protocol string
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
	// End is the reason why the flow ended; "" while it is open.
	End string
}

// record is the part of a flow that is common to TCP and UDP.
type record struct {
	key      flowKey
	target   netip.AddrPort
	peer     *peer
	route    *route
	opened   time.Time
	dial     time.Duration
	up, down traffic
	activity activity
}

func (r *record) flow(protocol, end string) Flow {
	return Flow{
		Protocol: protocol, Client: r.key.client, Address: r.key.dst, Target: r.target,
		Opened: r.opened, Duration: time.Since(r.opened), Dial: r.dial,
		ToVPCBytes: r.up.bytes.Load(), ToTailnetBytes: r.down.bytes.Load(),
		ToVPCPackets: r.up.packets.Load(), ToTailnetPackets: r.down.packets.Load(),
		End: end,
	}
}

// finished counts and reports a flow that ended.
func (f *Forwarder) finished(protocol string, r *record, reason string) {
	f.metrics.active[protocol].Dec()
	f.metrics.closed[protocol][reason].Inc()
	if f.cfg.Finished != nil {
		f.cfg.Finished(r.flow(protocol, reason))
	}
}

// Flows returns up to n open flows, those that moved the most bytes first.
func (f *Forwarder) Flows(n int) []Flow {
	var all []Flow
	each(&f.udp.mu, f.udp.flows, func(_ flowKey, fl *udpFlow) { all = append(all, fl.flow("udp", "")) })
	each(&f.tcp.mu, f.tcp.flows, func(fl *tcpFlow, _ struct{}) {
		if fl.stage.Load() == stageForwarding {
			all = append(all, fl.flow("tcp", ""))
		}
	})
	slices.SortFunc(all, func(a, b Flow) int {
		if d := (b.ToVPCBytes + b.ToTailnetBytes) - (a.ToVPCBytes + a.ToTailnetBytes); d != 0 {
			return int(min(max(d, -1), 1))
		}
		return a.Opened.Compare(b.Opened)
	})
	return all[:min(n, len(all))]
}
