package tailnet

import "net/http"

// ServeMetrics serves the engine's own metrics (tailscaled_…) in the
// Prometheus text format, as tailscaled does.
func (n *Node) ServeMetrics(w http.ResponseWriter, r *http.Request) {
	if !n.Started() {
		return
	}
	n.sys.UserMetricsRegistry().Handler(w, r)
}
