package forward

import (
	"sync/atomic"

	"subnetrouter/internal/packet"

	"github.com/prometheus/client_golang/prometheus"
)

// dropReason is the reason why a packet did not reach its destination. The set is closed
// because it is a metric's label.
type dropReason int

const (
	// On the way to the VPC.
	dropMalformed dropReason = iota
	dropChecksum
	dropUnsupported
	dropFragmentMalformed
	dropFragmentDuplicate
	dropFragmentOverlap
	dropFragmentTimeout
	dropFragmentEvicted
	dropFlowFailed
	dropSocketBuffer
	dropTooBig
	dropUnreachable
	dropSendFailed
	dropSYNLimit
	dropResponderBusy
	// On the way to the tailnet.
	dropLinkFull
	dropEchoEvicted
	dropUnmatched
	dropClosed

	dropReasonCount
)

// dropNames are the label values, explained in docs/metrics.md.
var dropNames = [dropReasonCount]string{
	dropMalformed:         "malformed",
	dropChecksum:          "checksum",
	dropUnsupported:       "unsupported",
	dropFragmentMalformed: "fragment_malformed",
	dropFragmentDuplicate: "fragment_duplicate",
	dropFragmentOverlap:   "fragment_overlap",
	dropFragmentTimeout:   "fragment_timeout",
	dropFragmentEvicted:   "fragment_evicted",
	dropFlowFailed:        "flow_failed",
	dropSocketBuffer:      "socket_buffer",
	dropTooBig:            "too_big",
	dropUnreachable:       "unreachable",
	dropSendFailed:        "send_failed",
	dropSYNLimit:          "syn_limit",
	dropResponderBusy:     "responder_busy",
	dropLinkFull:          "link_full",
	dropEchoEvicted:       "echo_evicted",
	dropUnmatched:         "unmatched",
	dropClosed:            "closed",
}

// drops counts the packets that the data path drops. Each packet that is delivered, or read
// from a socket, is either forwarded or counted here, exactly once.
type drops struct {
	counts [dropReasonCount]atomic.Uint64
	desc   *prometheus.Desc
}

// newDrops returns counters of 0.
func newDrops() *drops {
	return &drops{desc: prometheus.NewDesc("router_dropped_packets_total",
		"Packets that the userspace data path did not forward, by reason.", []string{"reason"}, nil)}
}

// add counts packets. It takes no lock.
func (d *drops) add(reason dropReason, packets int) { d.counts[reason].Add(uint64(packets)) }

// fragmentDrops maps the reasons of package packet.
var fragmentDrops = [packet.FragmentDrops]dropReason{
	packet.FragmentMalformed:   dropFragmentMalformed,
	packet.FragmentUnsupported: dropUnsupported,
	packet.FragmentDuplicate:   dropFragmentDuplicate,
	packet.FragmentOverlap:     dropFragmentOverlap,
	packet.FragmentTimeout:     dropFragmentTimeout,
	packet.FragmentEvicted:     dropFragmentEvicted,
	packet.FragmentClosed:      dropClosed,
}

// fragments counts dropped fragments.
func (d *drops) fragments(reason packet.FragmentDrop, n int) { d.add(fragmentDrops[reason], n) }

func (d *drops) count(reason dropReason) uint64 { return d.counts[reason].Load() }

// Describe implements [prometheus.Collector].
func (d *drops) Describe(ch chan<- *prometheus.Desc) { ch <- d.desc }

// Collect implements [prometheus.Collector].
func (d *drops) Collect(ch chan<- prometheus.Metric) {
	for reason, name := range dropNames {
		ch <- prometheus.MustNewConstMetric(d.desc, prometheus.CounterValue, float64(d.counts[reason].Load()), name)
	}
}
