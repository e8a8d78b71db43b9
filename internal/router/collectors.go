package router

import (
	"slices"

	"subnetrouter/internal/tailnet"

	"github.com/prometheus/client_golang/prometheus"
)

// collector computes metrics at the time of the scrape, for labels that come and go.
type collector struct {
	desc    *prometheus.Desc
	collect func(desc *prometheus.Desc, out chan<- prometheus.Metric)
}

func (c collector) Describe(out chan<- *prometheus.Desc) { out <- c.desc }
func (c collector) Collect(out chan<- prometheus.Metric) { c.collect(c.desc, out) }

// newInfoCollector returns the series that names the router. Alerts and the dashboard join
// it by instance, since ECS gives each task a new address and most series have no name.
func newInfoCollector(r *Router) prometheus.Collector {
	v := r.opts.Version
	return collector{
		prometheus.NewDesc("router_build_info", "Always 1; the labels have the versions, the node's name, its hostname setting and the VPC, each empty until known.",
			[]string{"node", "hostname", "vpc"},
			prometheus.Labels{"version": v.Router, "commit": v.Commit, "tailscale_version": v.Tailscale}),
		func(desc *prometheus.Desc, out chan<- prometheus.Metric) {
			place, _, _, _ := r.lookUps.results()
			s, _ := r.node.Status()
			hostname, _ := r.hostname.Load().(string)
			out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, 1, s.Name, hostname, place.VPCID)
		},
	}
}

// maxLabeledRoutes bounds the routes that have their own series, since a prefix list may
// hold a thousand. router_unapproved_routes and router_primary_routes count all routes.
const maxLabeledRoutes = 100

func newRouteCollector(r *Router) prometheus.Collector {
	return collector{
		prometheus.NewDesc("router_route", "1 if the route is in the state (advertised, approved or primary at this router), else 0; for the first 100 routes.",
			[]string{"prefix", "state"}, nil),
		func(desc *prometheus.Desc, out chan<- prometheus.Metric) {
			_, found, _, _ := r.lookUps.results()
			s, _ := r.node.Status()
			for _, p := range found.Advertise[:min(len(found.Advertise), maxLabeledRoutes)] {
				for state, is := range map[string]bool{
					"advertised": slices.Contains(s.Advertised, p), "approved": slices.Contains(s.Approved, p), "primary": slices.Contains(s.Primary, p),
				} {
					out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, boolValue(is), p.String(), state)
				}
			}
		},
	}
}

func newPeerCollector(r *Router) prometheus.Collector {
	return collector{
		prometheus.NewDesc("router_peers", "Nodes in the netmap, by the path of packets to them; idle means no packets for 45 s.", []string{"path"}, nil),
		func(desc *prometheus.Desc, out chan<- prometheus.Metric) {
			_, count := r.node.Peers(0)
			for _, path := range tailnet.Paths {
				out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(count[path]), string(path))
			}
		},
	}
}
