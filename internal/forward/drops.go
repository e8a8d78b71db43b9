package forward

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// dropReason is why a packet did not reach its destination: a closed set, for it is
// a metric's label.
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
	// On the way to the tailnet.
	dropLinkFull
	dropEchoEvicted
	dropUnmatched
	dropClosed

	dropReasonCount

	// Of the TCP stack, which counts on its own.
	dropTCPStack = "tcp_stack"
)

// dropNames are the labels. docs/metrics.md says what each means.
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
	dropLinkFull:          "link_full",
	dropEchoEvicted:       "echo_evicted",
	dropUnmatched:         "unmatched",
	dropClosed:            "closed",
}

// drops counts the packets that the data path drops. Each packet that is delivered,
// or read from a socket, is passed on or counted here exactly once.
type drops struct {
	counts [dropReasonCount]atomic.Uint64
	desc   *prometheus.Desc
	stack  func() uint64 // what the TCP stack dropped
}

func newDrops() *drops {
	return &drops{desc: prometheus.NewDesc("router_dropped_packets_total",
		"Packets that the userspace data path did not forward, by reason.", []string{"reason"}, nil)}
}

func (d *drops) add(why dropReason, packets int) { d.counts[why].Add(uint64(packets)) }

func (d *drops) count(why dropReason) uint64 { return d.counts[why].Load() }

// Describe implements [prometheus.Collector].
func (d *drops) Describe(ch chan<- *prometheus.Desc) { ch <- d.desc }

// Collect implements [prometheus.Collector].
func (d *drops) Collect(ch chan<- prometheus.Metric) {
	for why, name := range dropNames {
		ch <- prometheus.MustNewConstMetric(d.desc, prometheus.CounterValue, float64(d.counts[why].Load()), name)
	}
	ch <- prometheus.MustNewConstMetric(d.desc, prometheus.CounterValue, float64(d.stack()), dropTCPStack)
}
