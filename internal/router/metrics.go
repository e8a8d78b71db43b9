package router

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"subnetrouter/internal/limits"
)

// registerMetrics adds the metrics that span packages; each package registers its own.
func (r *Router) registerMetrics() {
	r.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		newInfoCollector(r),
		gauge("router_ready", "1 while /readyz reports ready.", func() float64 {
			return boolValue(len(r.notReady()) == 0)
		}),
		gauge("router_draining", "1 from the stop signal until the exit.", func() float64 {
			return boolValue(r.draining.Load())
		}),
		gauge("router_routes_withdrawn", "1 while the routes are held back: probes fail here and pass at a peer router.", func() float64 {
			return boolValue(r.heldBack.Load())
		}),
		gauge("router_boot_overdue", "1 if the router was not ready within ROUTER_BOOT_TIMEOUT.", func() float64 {
			return boolValue(r.bootOverdue.Load())
		}),
		newRouteCollector(r),
		newRoleCollector(r),
		gauge("router_app_connector_routes", "Routes that the app connector has learned and advertises.", func() float64 {
			s, _ := r.node.Status()
			return float64(len(s.Learned))
		}),
		newPeerCollector(r),
		gauge("router_unapproved_routes", "Advertised routes that are not approved for this router.", func() float64 {
			s, _ := r.node.Status()
			return float64(len(s.Unapproved()))
		}),
		gauge("router_flows_busiest_peer", "Open flows of the node that has the most.", func() float64 {
			_, flows := r.forward.TopClient()
			return float64(flows)
		}),
		gauge("router_memory_limit_bytes", "Memory that the task may use, from task metadata, its control group or GOMEMLIMIT; 0 is unknown.", func() float64 {
			return float64(limits.Memory())
		}),
		gauge("router_open_files_limit", "Maximum number of open files of the process; 0 is unknown.", func() float64 {
			return float64(limits.MaxOpenFiles())
		}),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "router_log_lines_dropped_total",
			Help: "Lines missing in the log, because its output was blocked or failed.",
		}, func() float64 { return float64(r.events.Dropped()) }),
		gauge("router_primary_routes", "Routes for which this router is the primary.", func() float64 {
			s, _ := r.node.Status()
			return float64(len(s.Primary))
		}),
		gauge("router_node_key_expiry_timestamp_seconds", "Expiry of the node key; 0 is never, or no key yet.", func() float64 {
			s, _ := r.node.Status()
			return timestamp(s.KeyExpiry)
		}),
		gauge("router_identity_lease_end_timestamp_seconds", "End of the lease of this router's slot, unless it is renewed; 0 without a table in ROUTER_STATE.", func() float64 {
			return timestamp(r.leaseEnd())
		}),
		gauge("router_routes_lookup_timestamp_seconds", "Time of the last successful look-up of routes; 0 is never.", func() float64 {
			_, _, found, _ := r.lookUps.results()
			return timestamp(found)
		}),
	)
}

func gauge(name, help string, value func() float64) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
}

func boolValue(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// timestamp returns t in seconds since the epoch, or 0 for the zero time.
func timestamp(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

// counters counts calls and their failures by one label.
type counters struct{ attempts, failures *prometheus.CounterVec }

func newCounters(reg prometheus.Registerer, label string, values []string, attempts, failures prometheus.CounterOpts) *counters {
	c := &counters{prometheus.NewCounterVec(attempts, []string{label}), prometheus.NewCounterVec(failures, []string{label})}
	for _, v := range values {
		c.attempts.WithLabelValues(v)
		c.failures.WithLabelValues(v)
	}
	reg.MustRegister(c.attempts, c.failures)
	return c
}

func (c *counters) called(value string, err error) {
	c.attempts.WithLabelValues(value).Inc()
	if err != nil {
		c.failures.WithLabelValues(value).Inc()
	}
}
