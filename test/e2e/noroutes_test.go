package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"
)

// TestNoRoutes runs a router without subnet routes next to one that has some and could help it to
// drain: it is ready, serves a port, and exits at once although a client has used it.
func TestNoRoutes(t *testing.T) {
	for _, mode := range []string{"userspace", "kernel"} {
		t.Run(mode, func(t *testing.T) {
			w := newWorld(t, worldOptions{})
			serveApplication(t, w)
			other := w.startRouter(routerOptions{key: w.routerKey, env: map[string]string{"ROUTER_HOSTNAME": "with-routes"}, host: w.newRouterHost("second", "192.168.77.31", "10.0.1.6")})
			r := w.startRouter(routerOptions{root: mode == "kernel", env: map[string]string{
				"ROUTER_MODE": mode, "ROUTER_ROUTES": "none", "ROUTER_SERVE": "80=localhost:8080", "ROUTER_HOSTNAME": "sidecar",
			}})
			c := w.startClient()
			other.awaitReady()
			r.awaitReady()
			var n tailnettest.Node
			w.await("the router's addresses", func(nodes []tailnettest.Node) bool {
				var ok bool
				n, ok = tailnettest.Find(nodes, "sidecar")
				return ok && len(n.IPs) == 2
			})
			url := "http://" + n.IPs[0].String() + "/"
			testwait.Until(t, url, func() error {
				if out, code := c.sh("curl", "-gsS", "-m", "5", url); code != 0 || out != "application" {
					return fmt.Errorf("curl: exit code %d, %.100q", code, out)
				}
				return nil
			})
			if s := r.status(); len(s.Routes) > 0 || !s.Ready || s.DNS != nil {
				t.Errorf("routes %v, ready %v, DNS %v", s.Routes, s.Ready, s.DNS)
			}
			for command, want := range map[string]string{
				"status": "routes: none (ROUTER_ROUTES=none)", "plan": "routes:      none (ROUTER_ROUTES=none)",
				"doctor": "the router advertises no routes (ROUTER_ROUTES=none)",
			} {
				if out, code := r.run("router", command); code != 0 || !strings.Contains(out, want) {
					t.Errorf("router %s: exit code %d: %s", command, code, out)
				}
			}
			if out, code := r.run("router", "plan", "--json"); code != 0 || !strings.Contains(out, `"advertise": []`) {
				t.Errorf("router plan --json: exit code %d: %s", code, out)
			}
			_, metrics := r.get("/metrics")
			for _, want := range []string{"router_ready 1", "router_unapproved_routes 0", `router_bootstrap_failures_total{step="routes"} 0`} {
				if !strings.Contains(metrics, want+"\n") {
					t.Errorf("the metrics lack %s", want)
				}
			}
			if strings.Contains(metrics, "router_routes_lookup_timestamp_seconds 0\n") {
				t.Error("the metrics have no look-up of routes")
			}
			start := time.Now()
			if code := r.stop(); code != 0 || time.Since(start) > 5*time.Second {
				t.Errorf("exit code %d, %v after SIGTERM", code, time.Since(start))
			}
			r.hasLogged(`"helpers":0`, "no routes to hand over; flows cut")
		})
	}
}

// TestNoRoutesOutsideECS starts a router that is only a peer relay, without ECS and CIDRs.
func TestNoRoutesOutsideECS(t *testing.T) {
	w := newWorld(t, worldOptions{})
	r := w.startRouter(routerOptions{env: map[string]string{
		"ROUTER_ROUTES": "none", "ROUTER_PEER_RELAY": "40000", "ECS_CONTAINER_METADATA_URI_V4": "", "ROUTER_HOSTNAME": "relay",
	}})
	r.awaitReady()
	w.await("the node without routes", func(nodes []tailnettest.Node) bool {
		n, ok := tailnettest.Find(nodes, "relay")
		return ok && len(n.Advertised) == 0
	})
	if code := r.stop(); code != 0 {
		t.Errorf("exit code %d after SIGTERM, want 0", code)
	}
}
