package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"subnetrouter/internal/ops"
	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"
)

var everything = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}

// withInternet adds a host of the Internet behind the VPC's gateway, which only the router reaches,
// and a name server for the router. It returns the router's /etc.
func (w *world) withInternet(zone string) (etc string) {
	w.t.Helper()
	w.vpc.Address("lo", publicHost+"/32")
	w.vpc.Address("lo", publicHost6+"/128")
	w.serveHTTP(publicHost)
	w.serveHTTP(publicHost6)
	w.serveUDP(net.JoinHostPort(publicHost, "7"), func(query []byte) []byte { return query })
	w.routerHost.IP("route", "add", "default", "via", gatewayVPC)
	w.startZone(zone)
	w.routerHost.IP("route", "replace", resolverHost+"/32", "via", gatewayVPC)
	etc = ownEtc(w.t)
	if err := os.WriteFile(filepath.Join(etc, "resolv.conf"), []byte("nameserver "+resolverHost+"\n"), 0o644); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(etc), 0o755); err != nil {
		w.t.Fatal(err)
	}
	return etc
}

// TestExitNode uses the router as the exit node of a stock client, by address and name, in both
// modes.
func TestExitNode(t *testing.T) {
	const zone = "public.example"
	for _, mode := range []string{"userspace", "kernel"} {
		t.Run(mode, func(t *testing.T) {
			w := newWorld(t, worldOptions{policy: tailnettest.Policy{AutoApprovers: map[string][]netip.Prefix{tag: approvedRanges}}})
			control, ours := w.testControl()
			if !ours {
				t.Skip("the test changes the policy of tailnettest's control server")
			}
			etc := w.withInternet(zone)
			r := w.startRouter(routerOptions{root: mode == "kernel", etc: etc, env: map[string]string{"ROUTER_EXIT_NODE": "on", "ROUTER_MODE": mode}})
			r.awaitReason("role_unapproved", `{"autoApprovers":{"exitNode":["tag:subnet-router"]}}`)
			if out, code := r.run("router", "doctor"); code != 1 || !strings.Contains(out, "not approved: exit node") {
				t.Errorf("router doctor: exit %d: %s", code, out)
			}
			if err := control.SetPolicy(t.Context(), tailnettest.Policy{AutoApprovers: map[string][]netip.Prefix{tag: everything}}); err != nil {
				t.Fatal(err)
			}
			r.awaitReady()
			c := w.startClientWith(true)
			c.tailscale("set", "--exit-node=edge-router")
			c.awaitRoute("default")

			if out, code := c.sh("curl", "-sS", "--max-time", "10", "http://"+publicHost+"/"); code != 0 || !strings.HasPrefix(out, "hello from "+publicHost) {
				t.Errorf("curl by address: exit %d: %s", code, out)
			}
			if out, code := c.sh("ping", "-n", "-c", "1", "-W", "5", publicHost); code != 0 {
				t.Errorf("ping: exit %d: %s", code, out)
			}
			if err := echoUDP(t.Context(), w, net.JoinHostPort(publicHost, "7"), 1200); err != nil {
				t.Errorf("UDP: %v", err)
			}
			c.awaitName("db."+zone, dbHost)
			if _, metrics := r.get("/metrics"); !strings.Contains(metrics, `router_role{role="exit_node",state="approved"} 1`) ||
				strings.Contains(metrics, `router_peer_dns_queries_total{result="answered"} 0`) {
				t.Errorf("the metrics lack the role or its queries")
			}
			if out, code := r.run("router", "status"); code != 0 || !strings.Contains(out, "role: exit node: approved") {
				t.Errorf("router status: exit %d: %s", code, out)
			}

			// The task has no IPv6 route to the Internet: the client gets an error at once.
			start := time.Now()
			if out, code := c.sh("curl", "-gsS", "--max-time", "10", "http://["+publicHost6+"]/"); code != 7 || time.Since(start) > 3*time.Second {
				t.Errorf("IPv6: exit %d after %v: %s", code, time.Since(start), out)
			}
			if out, code := c.sh("ping", "-n", "-c", "1", "-W", "5", publicHost6); code == 0 || !strings.Contains(strings.ToLower(out), "unreachable") {
				t.Errorf("ping over IPv6: exit %d: %s", code, out)
			}

			// The deny list stays.
			must(r.host.Dial(t.Context(), "tcp", metadataIP+":80")).Close()
			nodes, _ := w.control.Nodes(t.Context())
			n, _ := tailnettest.Find(nodes, "edge-router")
			targets := []string{metadataIP + ":80", "169.254.169.254:80", net.JoinHostPort(routerVPC, "9002"), net.JoinHostPort(routerIP, "9002")}
			for _, ip := range n.IPs {
				targets = append(targets, netip.AddrPortFrom(ip, 9002).String())
			}
			for _, target := range targets {
				if w.reachesTCP(target) {
					t.Errorf("TCP reached %s through the exit node", target)
				}
			}
			// The peer API has no other path than that for DNS.
			for _, u := range c.peerAPI("edge-router") {
				for path, want := range map[string]string{"/": "404", "/v0/env": "404", "/v0/goroutines": "404", "/dns-query": "400"} {
					if out, _ := c.sh("curl", "-gsS", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", u+path); out != want {
						t.Errorf("%s%s: HTTP %s, want %s", u, path, out, want)
					}
				}
			}
			// Without access to the Internet, a peer may not resolve.
			if err := control.SetPolicy(t.Context(), tailnettest.Policy{AutoApprovers: map[string][]netip.Prefix{tag: everything},
				Rules: []tailnettest.Rule{{Src: []string{"*"}, Dst: []string{"10.0.0.0/16"}}}}); err != nil {
				t.Fatal(err)
			}
			testwait.Until(t, "the refusal of queries", func() error {
				for _, u := range c.peerAPI("edge-router") {
					if out, _ := c.sh("curl", "-gsS", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", u+"/dns-query"); out != "403" {
						return fmt.Errorf("%s: HTTP %s, want 403", u, out)
					}
				}
				return nil
			})
			if code := r.stop(); code != 0 {
				t.Errorf("exit code %d after SIGTERM, want 0", code)
			}
		})
	}
}

// TestNoRoleNoPeerAPI: a router without such a role has no peer API.
func TestNoRoleNoPeerAPI(t *testing.T) {
	for _, mode := range []string{"userspace", "kernel"} {
		t.Run(mode, func(t *testing.T) {
			w := newWorld(t, worldOptions{})
			r := w.startRouter(routerOptions{root: mode == "kernel", env: map[string]string{"ROUTER_MODE": mode}})
			r.awaitReady()
			c := w.startClient()
			c.awaitRoute("10.0.0.0/16")
			if urls := c.peerAPI("edge-router"); len(urls) > 0 {
				t.Errorf("the router publishes a peer API: %v", urls)
			}
			r.awaitReadyz("no roles", func(_ int, b ops.Readiness) bool { return len(b.Reasons) == 0 })
		})
	}
}

// peerAPI returns the URLs of a peer's API, as the client knows them.
func (c *client) peerAPI(name string) []string {
	c.t.Helper()
	out, code := c.sh(binary("tailscale"), "--socket="+c.socket, "status", "--json")
	if code != 0 {
		c.t.Fatalf("tailscale status: %s", out)
	}
	var s struct {
		Peer map[string]struct {
			HostName   string
			PeerAPIURL []string
		}
	}
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		c.t.Fatal(err)
	}
	for _, p := range s.Peer {
		if p.HostName == name {
			return p.PeerAPIURL
		}
	}
	return nil
}

// TestAppConnector has a stock client use a domain whose address changes, through routes that the
// router learns, in both modes.
func TestAppConnector(t *testing.T) {
	const domain = "app.example"
	for _, mode := range []string{"userspace", "kernel"} {
		t.Run(mode, func(t *testing.T) {
			w := newWorld(t, worldOptions{policy: tailnettest.Policy{
				AutoApprovers: map[string][]netip.Prefix{tag: everything},
				AppConnectors: []tailnettest.AppConnector{{Domains: []string{domain}, Connectors: []string{tag}}},
			}})
			control, ours := w.testControl()
			if !ours {
				t.Skip("only tailnettest's control server has app connectors")
			}
			etc := w.withInternet(domain)
			w.resolver.stop()
			w.vpc.Address("lo", changedHost+"/32")
			w.serveHTTP(changedHost)
			answer := func(address string) *process {
				return start(t, "dnsmasq", w.vpc.Command(t.Context(), "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--pid-file=", "--user=root", "--no-resolv", "--no-hosts",
					"--bind-interfaces", "--listen-address="+resolverHost, "--local-ttl=0", "--address=/"+domain+"/"+address))
			}
			first := answer(publicHost)
			r := w.startRouter(routerOptions{root: mode == "kernel", etc: etc, env: map[string]string{
				"ROUTER_APP_CONNECTOR": "on", "ROUTER_MODE": mode, "ROUTER_REFRESH": "1s",
			}})
			r.awaitReady()
			c := w.startClientWith(true)
			c.awaitRoute("10.0.0.0/16")
			c.awaitName(domain, publicHost)
			c.awaitRoute(publicHost)
			if out, code := c.resolving("curl", "-sS", "--max-time", "10", "http://"+domain+"/"); code != 0 || !strings.HasPrefix(out, "hello from "+publicHost) {
				t.Errorf("curl by name: exit %d: %s", code, out)
			}

			first.stop()
			answer(changedHost)
			c.awaitName(domain, changedHost)
			c.awaitRoute(changedHost)
			if out, code := c.resolving("curl", "-sS", "--max-time", "10", "http://"+domain+"/"); code != 0 || !strings.HasPrefix(out, "hello from "+changedHost) {
				t.Errorf("curl by name, after a change of the address: exit %d: %s", code, out)
			}
			time.Sleep(3 * time.Second) // several refreshes of the router's own routes
			nodes, _ := control.Nodes(t.Context())
			n, _ := tailnettest.Find(nodes, "edge-router")
			for _, route := range append([]netip.Prefix{netip.MustParsePrefix(publicHost + "/32"), netip.MustParsePrefix(changedHost + "/32")}, w.advertised...) {
				if !slices.Contains(n.Advertised, route) {
					t.Errorf("%v is not advertised: %v", route, n.Advertised)
				}
			}
			if out, code := r.run("router", "status"); code != 0 || !strings.Contains(out, "role: app connector: approved, 2 learned routes: "+publicHost+"/32 "+changedHost+"/32") {
				t.Errorf("router status: exit %d: %s", code, out)
			}
			if _, metrics := r.get("/metrics"); !strings.Contains(metrics, "router_app_connector_routes 2\n") {
				t.Error("the metrics lack the learned routes")
			}
			// Only what the policy names is routed.
			if w.reachesTCP(net.JoinHostPort("198.51.100.9", "80")) {
				t.Error("an address of no domain was reached")
			}
			// A policy that does not approve them.
			if err := control.SetPolicy(t.Context(), tailnettest.Policy{AutoApprovers: map[string][]netip.Prefix{tag: approvedRanges}}); err != nil {
				t.Fatal(err)
			}
			r.awaitReason("role_unapproved", `{"autoApprovers":{"routes":{"0.0.0.0/0":["tag:subnet-router"],"::/0":["tag:subnet-router"]}}}`)
			if code := r.stop(); code != 0 {
				t.Errorf("exit code %d after SIGTERM, want 0", code)
			}
		})
	}
}

// changedHost is the address that a domain gets later.
const changedHost = "198.51.100.8"
