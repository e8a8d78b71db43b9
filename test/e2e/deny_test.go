package e2e

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"subnetrouter/internal/tailnettest"
)

// via is the text of site 7's 4via6 prefix, without the IPv4 address.
const via = "fd7a:115c:a1e0:b1a:0:7:"

// TestDenyList gives the router 4via6 routes that contain both the VPC and the task's
// credentials endpoint. Control also gives it link-local routes that it does not advertise,
// so that the client sends packets that must not be forwarded. The denied targets exist: the
// router itself reaches them.
func TestDenyList(t *testing.T) {
	for _, mode := range []string{"userspace", "kernel"} {
		t.Run(mode, func(t *testing.T) {
			vpc, linkLocal := via+"a00:0/104", via+"a900:0/104" // 10.0.0.0/8 and 169.0.0.0/8
			both := []netip.Prefix{netip.MustParsePrefix(vpc), netip.MustParsePrefix(linkLocal)}
			w := newWorld(t, worldOptions{policy: tailnettest.Policy{
				AutoApprovers: map[string][]netip.Prefix{tag: append(both, netip.MustParsePrefix("10.0.0.0/8"))},
			}})
			control, ours := w.testControl()
			if !ours {
				t.Skip("only tailnettest's control server gives nodes routes that they do not advertise")
			}
			r := w.startRouter(routerOptions{root: mode == "kernel", env: map[string]string{
				"ROUTER_ROUTES": "10.0.0.0/16," + vpc + "," + linkLocal,
			}})
			c := w.startClient()
			r.awaitReady()
			forced := netip.MustParsePrefix("169.254.0.0/16")
			if err := control.ForceRoutes(t.Context(), "edge-router", forced); err != nil {
				t.Fatal(err)
			}
			defer control.ForceRoutes(t.Context(), "edge-router")
			for _, route := range []string{"10.0.0.0/16", vpc, linkLocal, forced.String()} {
				c.awaitRoute(route)
			}

			allowed := via + "a00:304" // dbHost
			if out, code := c.sh("curl", "-sS", "--max-time", "10", "http://["+allowed+"]/"); code != 0 || !strings.HasPrefix(out, "hello from "+dbHost) {
				t.Errorf("curl of an allowed 4via6 address: exit %d: %s", code, out)
			}
			if out, code := c.sh("ping", "-n", "-c", "1", "-W", "5", allowed); code != 0 {
				t.Errorf("ping of an allowed 4via6 address: exit %d: %s", code, out)
			}
			if err := echoUDP(t.Context(), w, net.JoinHostPort(allowed, "7"), 1200); err != nil {
				t.Errorf("UDP to an allowed 4via6 address: %v", err)
			}

			must(r.host.Dial(t.Context(), "tcp", metadataIP+":80")).Close()
			for _, target := range []string{metadataIP, via + "a9fe:aa02"} {
				if w.reachesTCP(net.JoinHostPort(target, "80")) {
					t.Errorf("TCP reached %s through the router", target)
				}
				if w.reachesUDP(r, metadataIP, target) {
					t.Errorf("UDP reached %s through the router", target)
				}
				if out, code := c.sh("ping", "-n", "-c", "1", "-W", "1", target); code == 0 {
					t.Errorf("ping reached %s through the router: %s", target, out)
				}
			}

			// The tailnet must not reach the router's own listener by any of its addresses.
			nodes, _ := w.control.Nodes(t.Context())
			n, _ := tailnettest.Find(nodes, "edge-router")
			own := []string{routerVPC, via + "a00:105"}
			for _, ip := range n.IPs {
				own = append(own, ip.String())
			}
			for _, addr := range own {
				if w.reachesTCP(net.JoinHostPort(addr, "9002")) {
					t.Errorf("the router's own listener was reached at %s", addr)
				}
			}
			if _, body := r.get("/metrics"); strings.Contains(body, "router_denied_packets_total 0\n") {
				t.Error("router_denied_packets_total did not increase")
			}
		})
	}
}

func (w *world) reachesTCP(address string) bool {
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*time.Second)
	defer cancel()
	conn, err := w.client.Dial(ctx, "tcp", address)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// reachesUDP reports whether a datagram from the client to target arrives at a listener at
// local in the router's namespace.
func (w *world) reachesUDP(r *router, local, target string) bool {
	ln, err := r.host.ListenPacket("udp", net.JoinHostPort(local, "5353"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer ln.Close()
	conn, err := w.client.Dial(w.t.Context(), "udp", net.JoinHostPort(target, "5353"))
	if err != nil {
		return false
	}
	defer conn.Close()
	for range 3 {
		conn.Write([]byte("hello"))
	}
	ln.SetReadDeadline(time.Now().Add(time.Second))
	_, _, err = ln.ReadFrom(make([]byte, 100))
	return err == nil
}
