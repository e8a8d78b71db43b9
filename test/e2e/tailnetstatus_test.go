package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"
)

// TestTailnetStatus reads the status on the node's tailnet addresses with and without the app
// capability, in both modes, and finds all other ports of these addresses closed.
func TestTailnetStatus(t *testing.T) {
	const capability = "subnetrouter.dev/cap/status"
	for _, mode := range []string{"userspace", "kernel"} {
		t.Run(mode, func(t *testing.T) {
			w := newWorld(t, worldOptions{})
			control, ours := w.testControl()
			if !ours {
				t.Skip("only tailnettest's control server lets a test change the access rules")
			}
			r := w.startRouter(routerOptions{root: mode == "kernel", env: map[string]string{
				"ROUTER_MODE": mode, "ROUTER_TAILNET_STATUS": "on", "ROUTER_STATUS_PAGE": "off",
			}})
			c := w.startClient()
			r.awaitReady()
			var addrs []netip.Addr
			w.await("the router's addresses", func(nodes []tailnettest.Node) bool {
				n, ok := tailnettest.Find(nodes, "edge-router")
				addrs = n.IPs
				return ok && len(addrs) == 2
			})
			own := []string{addrs[0].String(), addrs[1].String()}

			// get returns the HTTP code of a path at an address of the router, or 000.
			get := func(addr, path string) string {
				out, _ := c.sh("curl", "-gsS", "-m", "3", "-o", "/dev/null", "-w", "%{http_code}", "http://"+netip.AddrPortFrom(netip.MustParseAddr(addr), 9002).String()+path)
				return strings.TrimSpace(out[strings.LastIndexAny(out, "\n ")+1:])
			}
			awaitCode := func(name, path, want string) {
				t.Helper()
				for _, addr := range own {
					testwait.Until(t, name, func() error {
						if got := get(addr, path); got != want {
							return fmt.Errorf("%s%s: HTTP %s, want %s", addr, path, got, want)
						}
						return nil
					})
				}
			}
			set := func(rules ...tailnettest.Rule) {
				t.Helper()
				p := tailnettest.Policy{Failover: time.Second, AutoApprovers: map[string][]netip.Prefix{tag: approvedRanges, otherTag: approvedRanges}, Rules: rules}
				if err := control.SetPolicy(t.Context(), p); err != nil {
					t.Fatal(err)
				}
			}
			everything := tailnettest.Rule{Src: []string{"*"}, Dst: []string{"*"}}
			grant := func(value string, dst ...string) tailnettest.Rule {
				return tailnettest.Rule{Src: []string{"*"}, Dst: dst, App: map[string][]string{capability: {value}}}
			}

			awaitCode("a peer without the capability", "/status", "403")
			if out, _ := c.sh("curl", "-gsS", "-m", "5", "http://"+own[0]+":9002/"); !strings.Contains(out, capability) {
				t.Errorf("the refusal does not name the capability: %s", out)
			}
			set(everything, grant(`{"read": "yes"}`, own...), grant(`{"read": false}`, own...), grant(`[]`, own...))
			awaitCode("a peer with malformed capabilities", "/status", "403")
			set(everything, grant(`17`, own...), grant(`{"read": true}`, own...))
			for _, path := range []string{"/", "/status", "/readyz", "/healthz", "/metrics"} {
				awaitCode("a peer with the capability", path, "200")
			}
			set(everything, grant(`{"read": true}`, own[1]))
			testwait.Until(t, "a grant for one address", func() error {
				if a, b := get(own[0], "/"), get(own[1], "/"); a != "403" || b != "200" {
					return fmt.Errorf("HTTP %s and %s, want 403 and 200", a, b)
				}
				return nil
			})

			set(everything, grant(`{"read": true}`, own...))
			awaitCode("the grant for both", "/", "200")
			for host, want := range map[string]string{"edge-router": "200", "edge-router:9002": "200", "rebound.example.com": "403", "edge-router.example.com": "403"} {
				if out, _ := c.sh("curl", "-gsS", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Host: "+host, "http://"+own[0]+":9002/status"); out != want {
					t.Errorf("a request for %s: HTTP %s, want %s", host, out, want)
				}
			}
			// The listener of the host is denied behind the route as before, and other ports of the
			// node are closed.
			for _, target := range []string{
				net.JoinHostPort(routerVPC, "9002"), net.JoinHostPort(own[0], "22"), net.JoinHostPort(own[0], "9003"), net.JoinHostPort(own[1], "41641"),
			} {
				if w.reachesTCP(target) {
					t.Errorf("%s is open", target)
				}
			}
			set(tailnettest.Rule{Src: []string{"*"}, Dst: []string{"10.0.0.0/16"}}, grant(`{"read": true}`, own...))
			awaitCode("a policy that does not allow the port", "/", "000")
			set(everything)
			awaitCode("a grant that was taken away", "/", "403")
			if code := r.stop(); code != 0 {
				t.Errorf("exit code %d after SIGTERM, want 0", code)
			}
		})
	}
}
