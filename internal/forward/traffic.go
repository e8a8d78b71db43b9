package forward

import (
	"net/netip"
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
	ended  = "ended"  // both sides were done; for DNS, all was answered
	idled  = "idle"   // nothing moved for too long
	failed = "failed" // one side was reset, or went away
	cut    = "cut"    // by the router, when it stopped
)

// finished accounts for a flow that is over.
func (f *Forwarder) finished(protocol string, key flowKey, target netip.AddrPort, opened time.Time, up, down *traffic, why string) {
	f.metrics.closed[protocol][why].Inc()
	f.log.Debug("flow ended", "protocol", protocol, "client", key.client.String(), "target", target.String(),
		"reason", why, "duration", time.Since(opened).String(), "to_vpc_bytes", up.bytes.Load(), "to_tailnet_bytes", down.bytes.Load())
}
