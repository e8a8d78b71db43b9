package forward

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics holds the child of each label set, so that the data path neither looks up labels nor
// creates new ones. The arrays are indexed by protocol, the maps by reason. active and closed
// have no ICMP: an echo request is no open flow.
type metrics struct {
	opened, toVPC, toTailnet [protocolCount]prometheus.Counter
	active                   [protocolCount]prometheus.Gauge
	failed, closed           [protocolCount]map[string]prometheus.Counter
	denied                   prometheus.Counter
	limit, peerLimit         prometheus.Gauge
	dialDuration             prometheus.Histogram
}

// newMetrics creates the metrics with every label, so that a counter that never counted is 0 and not
// missing, and registers them, the routes and the drops with reg, which may be nil.
func newMetrics(reg prometheus.Registerer, routes *routeTable, dropped *drops) (*metrics, error) {
	opened := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "router_flows_opened_total",
		Help: "Flows opened from the tailnet to targets behind the router; for icmp, echo requests.",
	}, []string{"protocol"})
	active := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "router_flows_active",
		Help: "Flows open now.",
	}, []string{"protocol"})
	failed := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "router_flow_failures_total",
		Help: "Flows that could not be opened towards the target, by reason.",
	}, []string{"protocol", "reason"})
	closed := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "router_flows_closed_total",
		Help: "Flows that ended, by reason.",
	}, []string{"protocol", "reason"})
	bytes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "router_forwarded_bytes_total",
		Help: "Payload bytes forwarded in userspace, by direction.",
	}, []string{"protocol", "direction"})
	m := &metrics{
		denied: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "router_denied_packets_total",
			Help: "Packets to destinations that are never forwarded to, such as the task's credentials endpoint.",
		}),
		limit: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "router_flows_limit", Help: "Flows that may be open at once.",
		}),
		peerLimit: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "router_flows_limit_per_peer", Help: "Flows that one node of the tailnet may have open at once, over all of its addresses.",
		}),
		dialDuration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:                        "router_dial_duration_seconds",
			Help:                        "Time to open a connection to a target behind the router, failed ones included.",
			Buckets:                     []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
			NativeHistogramBucketFactor: 1.2,
			// Bounded: dials from microseconds up to the timeout need some 90
			// buckets.
			NativeHistogramMaxBucketNumber:  100,
			NativeHistogramMinResetDuration: time.Hour,
		}),
	}
	for p := range protocolCount {
		m.opened[p] = opened.WithLabelValues(p.String())
		m.toVPC[p] = bytes.WithLabelValues(p.String(), "to_vpc")
		m.toTailnet[p] = bytes.WithLabelValues(p.String(), "to_tailnet")
		m.failed[p] = map[string]prometheus.Counter{}
		for _, r := range reasons {
			m.failed[p][r] = failed.WithLabelValues(p.String(), r)
		}
	}
	for _, p := range []Protocol{TCP, UDP} {
		m.active[p] = active.WithLabelValues(p.String())
		m.closed[p] = map[string]prometheus.Counter{}
		for _, r := range endings {
			m.closed[p][r] = closed.WithLabelValues(p.String(), r)
		}
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{opened, active, failed, closed, bytes, routes.bytes, routes.failed,
		m.denied, m.dialDuration, m.limit, m.peerLimit, dropped} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
