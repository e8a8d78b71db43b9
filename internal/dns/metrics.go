package dns

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// result is how a query was answered.
type result int

// The results.
const (
	hit       result = iota // from the cache, fresh
	miss                    // by the resolver, which it caused to be asked
	coalesced               // by the resolver, which was being asked already
	stale                   // from the cache, since the resolver failed or is slow
	refused                 // by a limit, the rebinding guard, or as a question of that kind
	failed                  // SERVFAIL, or another failure of the resolver
	invalid                 // malformed, or of an unknown kind
	resultCount
)

var resultNames = [resultCount]string{"hit", "miss", "coalesced", "stale", "refused", "failed", "invalid"}

// The causes of failed questions.
const (
	causeTimeout     = "timeout"
	causeUnreachable = "unreachable"
	causeRcode       = "rcode"
)

// metrics holds the child of each label set. The arrays are indexed by result.
type metrics struct {
	udp, tcp           [resultCount]prometheus.Counter
	failures           map[string]prometheus.Counter
	duration           prometheus.Histogram
	packets            prometheus.Counter
	invalidAnswers     prometheus.Counter
	connectionsRefused prometheus.Counter

	zoneQueries, zoneHits, zoneFailures *prometheus.CounterVec
	zoneDuration                        *prometheus.HistogramVec
	zoneLabels                          map[string]bool // those that exist; guarded by the lock of the server
}

// newMetrics creates the metrics of s and registers them with reg, which may be nil.
func newMetrics(reg prometheus.Registerer, s *Server) (*metrics, error) {
	queries := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "router_dns_queries_total", Help: "Clients' DNS queries, by transport and how they were answered.",
	}, []string{"transport", "result"})
	failures := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "router_dns_upstream_failures_total", Help: "Questions that the VPC's resolver did not answer, by cause.",
	}, []string{"cause"})
	zoneVec := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"zone"})
	}
	m := &metrics{
		failures: map[string]prometheus.Counter{},
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "router_dns_upstream_duration_seconds", Help: "Time until the VPC's resolver answered a question, retries included.",
			Buckets:                        []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
			NativeHistogramBucketFactor:    1.2,
			NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour,
		}),
		packets: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "router_dns_upstream_packets_total", Help: "Packets sent to the VPC's resolver; a question over TCP counts 6.",
		}),
		invalidAnswers: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "router_dns_upstream_invalid_answers_total", Help: "Messages from the VPC's resolver that do not answer the question, and were ignored.",
		}),
		connectionsRefused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "router_dns_connections_refused_total", Help: "Clients' TCP connections closed because the node, or all nodes, had too many.",
		}),
		zoneQueries:  zoneVec("router_dns_zone_queries_total", "Clients' DNS queries, by private zone."),
		zoneHits:     zoneVec("router_dns_zone_hits_total", "Clients' DNS queries that the cache answered, by private zone."),
		zoneFailures: zoneVec("router_dns_zone_failures_total", "Clients' DNS queries that failed, by private zone."),
		zoneDuration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "router_dns_zone_upstream_duration_seconds", Help: "Time until the VPC's resolver answered or failed, by private zone.",
			Buckets: []float64{.001, .005, .025, .1, .5, 2.5},
		}, []string{"zone"}),
	}
	for r := range resultCount {
		m.udp[r] = queries.WithLabelValues("udp", resultNames[r])
		m.tcp[r] = queries.WithLabelValues("tcp", resultNames[r])
	}
	for _, c := range []string{causeTimeout, causeUnreachable, causeRcode} {
		m.failures[c] = failures.WithLabelValues(c)
	}
	m.setZones(s.facts.Load().zones)
	if reg == nil {
		return m, nil
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	locked := func(value func() int) func() float64 {
		return func() float64 {
			s.mu.Lock()
			defer s.mu.Unlock()
			return float64(value())
		}
	}
	for _, c := range []prometheus.Collector{
		queries, failures, m.duration, m.packets, m.invalidAnswers, m.connectionsRefused,
		m.zoneQueries, m.zoneHits, m.zoneFailures, m.zoneDuration,
		gauge("router_dns_cache_entries", "Answers in the DNS cache, stale ones included.", locked(func() int { return len(s.cache.entries) })),
		gauge("router_dns_cache_bytes", "Memory of the answers in the DNS cache.", locked(func() int { return s.cache.bytes })),
		gauge("router_dns_waiting_queries", "Clients' DNS queries that wait for the VPC's resolver.", locked(func() int { return s.waiting })),
		gauge("router_dns_upstream_packets_per_second", "Packets sent to the VPC's resolver in the last whole second.", func() float64 { return float64(s.upstream.last(time.Now())) }),
	} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) query(tcp bool, r result) {
	if tcp {
		m.tcp[r].Inc()
	} else {
		m.udp[r].Inc()
	}
}

// asked records a question to the resolver.
func (m *metrics) asked(took time.Duration, err error) {
	var timeout interface{ Timeout() bool }
	switch {
	case err == nil:
		m.duration.Observe(took.Seconds())
	case isRefusal(err):
		m.failures[causeRcode].Inc()
	case errors.Is(err, errSilent), errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		m.failures[causeTimeout].Inc()
	default:
		m.failures[causeUnreachable].Inc()
	}
}

func isRefusal(err error) bool {
	_, ok := errors.AsType[*refusalError](err)
	return ok
}

// setZones gives the zones their metrics, and removes those of zones that are gone. It is called with
// the lock of the server, or before there is one.
func (m *metrics) setZones(z *zones) {
	keep := map[string]bool{}
	for _, v := range z.all() {
		keep[v.label] = true
		v.queries, v.hits, v.failures = m.zoneQueries.WithLabelValues(v.label), m.zoneHits.WithLabelValues(v.label), m.zoneFailures.WithLabelValues(v.label)
		v.duration = m.zoneDuration.WithLabelValues(v.label)
	}
	for label := range m.zoneLabels {
		if !keep[label] {
			m.zoneQueries.DeleteLabelValues(label)
			m.zoneHits.DeleteLabelValues(label)
			m.zoneFailures.DeleteLabelValues(label)
			m.zoneDuration.DeleteLabelValues(label)
		}
	}
	m.zoneLabels = keep
}
