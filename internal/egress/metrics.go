package egress

import (
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// maxTargets bounds the targets with series of their own. Further ones are counted together, as otherTargets.
const (
	maxTargets   = 50
	otherTargets = "other"
)

type metrics struct {
	flows    *prometheus.CounterVec // by protocol and target
	bytes    *prometheus.CounterVec // by target and direction
	failures *prometheus.CounterVec // by protocol and reason
	active   *prometheus.GaugeVec   // by protocol
	open     prometheus.GaugeFunc
	limit    prometheus.Gauge

	mu      sync.Mutex // covers targets
	targets map[string]*target
}

// target holds the counters of a target.
type target struct {
	label            string
	toTailnet, toVPC prometheus.Counter
	opened, open     atomic.Int64
}

// newMetrics creates the metrics. The targets of ports have series from the start.
func newMetrics(ports []Port, a *admission) *metrics {
	m := &metrics{
		flows: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "router_egress_flows_opened_total", Help: "Connections and UDP sessions opened into the tailnet, by target.",
		}, []string{"protocol", "target"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "router_egress_bytes_total", Help: "Payload bytes of flows into the tailnet, by target and direction.",
		}, []string{"target", "direction"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "router_egress_failures_total", Help: "Connections and UDP sessions into the tailnet that could not be opened, by reason.",
		}, []string{"protocol", "reason"}),
		active: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "router_egress_flows_active", Help: "Connections and UDP sessions into the tailnet that are open.",
		}, []string{"protocol"}),
		open: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "router_egress_connections", Help: "TCP connections of programs to the egress listeners that are open.",
		}, func() float64 { return float64(a.open()) }),
		limit: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "router_egress_connections_limit", Help: "TCP connections of programs that may be open at once.",
		}),
		targets: map[string]*target{},
	}
	m.limit.Set(float64(a.limit))
	for _, protocol := range []string{"tcp", "udp"} {
		m.active.WithLabelValues(protocol)
		for _, r := range reasons {
			m.failures.WithLabelValues(protocol, string(r))
		}
	}
	m.targets[otherTargets] = m.newTarget(otherTargets)
	for _, p := range ports {
		m.flows.WithLabelValues(p.protocol(), m.target(p.Target).label)
	}
	return m
}

func (m *metrics) register(reg prometheus.Registerer) error {
	for _, c := range []prometheus.Collector{m.flows, m.bytes, m.failures, m.active, m.open, m.limit} {
		if err := reg.Register(c); err != nil {
			return err
		}
	}
	return nil
}

func (m *metrics) newTarget(label string) *target {
	return &target{label: label, toTailnet: m.bytes.WithLabelValues(label, "to_tailnet"), toVPC: m.bytes.WithLabelValues(label, "to_vpc")}
}

// target returns the counters of a target that was reached, so that programs cannot fill the table with names.
func (m *metrics) target(name string) *target {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.targets[name]; t != nil {
		return t
	}
	if len(m.targets) > maxTargets {
		return m.targets[otherTargets]
	}
	t := m.newTarget(name)
	m.targets[name] = t
	return t
}

func (m *metrics) opened(protocol, name string) *target {
	t := m.target(name)
	m.flows.WithLabelValues(protocol, t.label).Inc()
	m.active.WithLabelValues(protocol).Inc()
	t.opened.Add(1)
	t.open.Add(1)
	return t
}

func (m *metrics) closed(protocol string, t *target) {
	m.active.WithLabelValues(protocol).Dec()
	t.open.Add(-1)
}

func (m *metrics) failed(protocol string, r reason) {
	m.failures.WithLabelValues(protocol, string(r)).Inc()
}
