package forward

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// traffic counts one direction of a flow. Packets are datagrams; for TCP, reads.
type traffic struct{ bytes, packets atomic.Int64 }

func (t *traffic) count(bytes, packets int) {
	t.bytes.Add(int64(bytes))
	t.packets.Add(int64(packets))
}

// The reasons for which flows end: a closed set, for it is a metric's label.
const (
	ended   = "ended"   // both sides were done; for DNS, all was answered
	idled   = "idle"    // nothing moved for too long
	failed  = "failed"  // one side was reset, or went away
	cut     = "cut"     // by the router, when it stopped
	revoked = "revoked" // by the router, when a change forbade it
)

// Flow is what is known of a flow, live or finished.
type Flow struct {
	Protocol string
	// Client is the peer; Address is where it sent to, Target what that means
	// with 4via6 undone.
	Client, Address, Target netip.AddrPort
	Opened                  time.Time
	// Duration is up to now, or the end.
	Duration time.Duration
	// Dial is how long the target took to accept; TCP only.
	Dial time.Duration
	// Bytes of payload, and datagrams (TCP: reads), in each direction.
	ToVPCBytes, ToTailnetBytes     int64
	ToVPCPackets, ToTailnetPackets int64
	// End is why the flow ended; "" while it lives.
	End string
}

// record is the part of a flow that both protocols have.
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

// finished accounts for a flow that is over.
func (f *Forwarder) finished(protocol string, r *record, why string) {
	f.metrics.active[protocol].Dec()
	f.metrics.closed[protocol][why].Inc()
	if f.cfg.Finished != nil {
		f.cfg.Finished(r.flow(protocol, why))
	}
}

// Flows lists up to n live flows, those that moved the most bytes first.
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
