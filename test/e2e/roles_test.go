package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"subnetrouter/internal/netnstest"
	"subnetrouter/internal/ops"
	"subnetrouter/internal/problem"
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
	for _, host := range []string{publicHost, publicHost6} {
		w.serveUDP(net.JoinHostPort(host, "7"), func(query []byte) []byte { return query })
	}
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
			if err := control.SetPolicy(t.Context(), tailnettest.Policy{AutoApprovers: map[string][]netip.Prefix{tag: everything, otherTag: everything}}); err != nil {
				t.Fatal(err)
			}
			r.awaitReady()
			c := w.startClientWith(true)
			c.exitBy("edge-router", routerVPC)
			v4 := c.exitResults(publicHost, routerVPC, "db."+zone)
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

			// With a route, IPv6 works too, and tailscaled at the same place gives nothing more.
			r.host.IP("-6", "route", "add", publicHost6+"/128", "via", w.gw6.String())
			v6 := c.exitResults(publicHost6, w.router6.String(), "db."+zone)
			w.compareExitNode(c, mode, etc, zone, v4, v6)
			c.exitBy("edge-router", routerVPC)

			// The deny list stays.
			must(r.host.Dial(t.Context(), "tcp", metadataIP+":80")).Close()
			nodes, _ := w.control.Nodes(t.Context())
			n, _ := tailnettest.Find(nodes, "edge-router")
			targets := []string{metadataIP + ":80", "169.254.169.254:80", net.JoinHostPort(routerVPC, "9002"), net.JoinHostPort(w.router6.String(), "9002"), net.JoinHostPort(routerIP, "9002")}
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

// exitBy selects an exit node, and waits until its packets come from an address.
func (c *client) exitBy(name, from string) {
	c.t.Helper()
	testwait.Until(c.t, "the exit node "+name, func() error {
		// The client may not know yet that the node is one.
		if out, code := c.sh(binary("tailscale"), "--socket="+c.socket, "set", "--exit-node="+name); code != 0 {
			return fmt.Errorf("tailscale set: exit %d: %s", code, out)
		}
		out, code := c.sh("curl", "-sS", "--max-time", "5", "http://"+publicHost+"/")
		if code != 0 || strings.TrimSpace(out) != "hello from "+publicHost+" to "+from {
			return fmt.Errorf("curl: exit %d: %s", code, out)
		}
		return nil
	})
	c.awaitRoute("default")
}

// exitResults uses a host of the Internet, and a name that the exit node resolves. See compareResults.
func (c *client) exitResults(host, from, name string) map[string]string {
	c.t.Helper()
	results := map[string]string{}
	run := func(what string, ok func(out string, code int) bool, command string, args ...string) {
		results[what] = ""
		if out, code := c.sh(command, args...); !ok(out, code) {
			results[what] = fmt.Sprintf("%s by way of %s: exit %d: %s", host, from, code, out)
		}
	}
	at := "http://" + net.JoinHostPort(host, "80") + "/"
	run("HTTP", func(out string, code int) bool {
		return code == 0 && strings.TrimSpace(out) == "hello from "+host+" to "+from
	}, "curl", "-gsS", "--max-time", "10", at)
	run("a download", func(out string, code int) bool { return code == 0 && out == "1000000" },
		"curl", "-gsS", "--max-time", "20", "-o", "/dev/null", "-w", "%{size_download}", at+"?bytes=1000000")
	run("ping", func(_ string, code int) bool { return code == 0 }, "ping", "-n", "-c", "1", "-W", "5", host)
	run("the refusal of a closed port", func(_ string, code int) bool { return code == 7 },
		"curl", "-gsS", "--max-time", "10", "http://"+net.JoinHostPort(host, "81")+"/")
	for _, size := range []int{1, 1200, 4000} {
		what := fmt.Sprintf("UDP of %d bytes", size)
		results[what] = ""
		if err := echoUDP(c.t.Context(), c.w, net.JoinHostPort(host, "7"), size); err != nil {
			results[what] = fmt.Sprintf("%s by way of %s: %v", host, from, err)
		}
	}
	c.awaitName(name, dbHost)
	return results
}

// compareExitNode uses tailscaled as the exit node, at the same place as the router, and compares the results of IPv4
// and IPv6.
func (w *world) compareExitNode(c *client, mode, etc, zone string, v4, v6 map[string]string) {
	t := w.t
	t.Helper()
	h, key := w.newStockHost()
	h.IP("route", "add", "default", "via", gatewayVPC)
	h.IP("route", "replace", resolverHost+"/32", "via", gatewayVPC)
	h.IP("-6", "route", "add", publicHost6+"/128", "via", w.gw6.String())
	stock, _ := w.startStockAs("stock", h, mode, etc, key, "--advertise-exit-node")
	w.await("the exit node", func(nodes []tailnettest.Node) bool {
		n, ok := tailnettest.Find(nodes, "stock")
		return ok && len(n.Approved) == 2 && n.HomeDERP != 0
	})
	c.exitBy("stock", stockVPC)
	b := w.router6.As16()
	b[15] = netip.MustParseAddr(stockVPC).As4()[3]
	stock6 := netip.AddrFrom16(b)
	compareResults(t, v4, c.exitResults(publicHost, stockVPC, "db."+zone))
	var lacks []string
	if mode == "userspace" { // its stack does not forward fragments of IPv6
		lacks = []string{"UDP of 4000 bytes"}
	}
	compareResults(t, v6, c.exitResults(publicHost6, stock6.String(), "db."+zone), lacks...)
	// tailscaled lets clients reach the programs on its host, which the router denies in the next step. Link-local
	// addresses are denied by clients of both, before any exit node.
	for target, reached := range map[string]bool{
		metadataIP + ":80": false, net.JoinHostPort(stockVPC, "9002"): true, net.JoinHostPort(stock6.String(), "9002"): true,
	} {
		ln := must(h.Listen("tcp", target))
		defer ln.Close()
		if got := w.reachesTCP(target); got != reached {
			t.Errorf("tailscaled: %s is reached: %v, want %v", target, got, reached)
		}
	}
	stock.stop()
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
	const domain, stockDomain = "app.example", "stock.example"
	for _, mode := range []string{"userspace", "kernel"} {
		t.Run(mode, func(t *testing.T) {
			connectors := []tailnettest.AppConnector{{Domains: []string{domain}, Connectors: []string{tag}}, {Domains: []string{stockDomain}, Connectors: []string{otherTag}}}
			w := newWorld(t, worldOptions{policy: tailnettest.Policy{
				AutoApprovers: map[string][]netip.Prefix{tag: everything, otherTag: everything}, AppConnectors: connectors,
			}})
			control, ours := w.testControl()
			if !ours {
				t.Skip("only tailnettest's control server has app connectors")
			}
			etc := w.withInternet(domain)
			w.resolver.stop()
			for _, host := range []string{changedHost, stockHost, changedStockHost} {
				w.vpc.Address("lo", host+"/32")
				w.serveHTTP(host)
			}
			answer := func(address, stockAddress string) *process {
				return start(t, "dnsmasq", w.vpc.Command(t.Context(), "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--pid-file=", "--user=root", "--no-resolv", "--no-hosts",
					"--bind-interfaces", "--listen-address="+resolverHost, "--local-ttl=0", "--address=/"+domain+"/"+address, "--address=/"+stockDomain+"/"+stockAddress))
			}
			first := answer(publicHost, stockHost)
			r := w.startRouter(routerOptions{root: mode == "kernel", etc: etc, env: map[string]string{
				"ROUTER_APP_CONNECTOR": "on", "ROUTER_MODE": mode, "ROUTER_REFRESH": "1s",
			}})
			r.awaitReady()
			c := w.startClientWith(true)
			c.awaitRoute("10.0.0.0/16")
			// The same of tailscaled, at another domain.
			stockAt, key := w.newStockHost()
			stockAt.IP("route", "add", "default", "via", gatewayVPC)
			stockAt.IP("route", "replace", resolverHost+"/32", "via", gatewayVPC)
			stock, _ := w.startStockAs("stock", stockAt, mode, etc, key, "--advertise-connector")
			c.useConnector(domain, publicHost, routerVPC)
			c.useConnector(stockDomain, stockHost, stockVPC)

			first.stop()
			answer(changedHost, changedStockHost)
			c.useConnector(domain, changedHost, routerVPC)
			c.useConnector(stockDomain, changedStockHost, stockVPC)
			// Connections to the earlier address go on.
			for _, host := range []string{publicHost, stockHost} {
				if out, code := c.sh("curl", "-sS", "--max-time", "10", "http://"+host+"/"); code != 0 {
					t.Errorf("the earlier address %s: exit %d: %s", host, code, out)
				}
			}
			stock.stop()
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
			// A policy that does not approve them: the router stays ready.
			policy := tailnettest.Policy{
				AutoApprovers: map[string][]netip.Prefix{tag: approvedRanges},
				AppConnectors: connectors,
			}
			if err := control.SetPolicy(t.Context(), policy); err != nil {
				t.Fatal(err)
			}
			warned := func(code int, body ops.Readiness) bool {
				return code == http.StatusOK && slices.ContainsFunc(body.Warnings, func(why ops.Reason) bool {
					return why.Code == problem.RoleUnapproved && strings.Contains(why.Fix, `{"autoApprovers":{"routes":{"0.0.0.0/0":["tag:subnet-router"],"::/0":["tag:subnet-router"]}}}`)
				})
			}
			r.awaitReadyz("the warning about learned addresses", warned)
			// The drain does not wait for the learned routes, which stay and are primary here.
			policy.AutoApprovers = map[string][]netip.Prefix{tag: everything}
			if err := control.SetPolicy(t.Context(), policy); err != nil {
				t.Fatal(err)
			}
			r.awaitReadyz("the approval of learned addresses", func(code int, body ops.Readiness) bool { return code == http.StatusOK && !warned(code, body) })
			began := time.Now()
			if code := r.stop(); code != 0 {
				t.Errorf("exit code %d after SIGTERM, want 0", code)
			}
			t.Logf("the drain took %v", time.Since(began))
			if strings.Contains(r.out.String(), "withdrawing routes failed") {
				t.Error("the drain waited for the learned routes")
			}
		})
	}
}

// The addresses that domains get, those of changed ones later.
const changedHost, stockHost, changedStockHost = "198.51.100.8", "198.51.100.10", "198.51.100.11"

// useConnector has the client use a domain, whose requests come from an address.
func (c *client) useConnector(domain, address, from string) {
	c.t.Helper()
	c.awaitName(domain, address)
	c.awaitRoute(address)
	testwait.Until(c.t, domain+" at "+address, func() error {
		out, code := c.resolving("curl", "-sS", "--max-time", "10", "http://"+domain+"/")
		if code != 0 || strings.TrimSpace(out) != "hello from "+address+" to "+from {
			return fmt.Errorf("curl: exit %d: %s", code, out)
		}
		return nil
	})
}

// TestPeerRelay has two stock nodes exchange packets that cannot reach each other directly: by DERP
// first, and by the router's peer relay once the policy has the grant, in both modes.
func TestPeerRelay(t *testing.T) {
	const size = 20 << 20
	for _, mode := range []string{"userspace", "kernel"} {
		t.Run(mode, func(t *testing.T) {
			w := newWorld(t, worldOptions{})
			control, ours := w.testControl()
			if !ours {
				t.Skip("only tailnettest's control server lets a test change the grants")
			}
			r := w.startRouter(routerOptions{root: mode == "kernel", env: map[string]string{"ROUTER_PEER_RELAY": "40000", "ROUTER_MODE": mode}})
			r.awaitReady()
			c := w.startClient()
			desktop, p := w.startDesktop("desktop")
			// Neither reaches the other's UDP port.
			for _, block := range []struct {
				host *netnstest.Host
				peer string
			}{{w.client, desktopIP}, {desktop, clientIP}} {
				if out, err := block.host.Command(t.Context(), "iptables", "-A", "OUTPUT", "-p", "udp", "-d", block.peer, "-j", "DROP").CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
			}
			nodes, _ := w.control.Nodes(t.Context())
			router, _ := tailnettest.Find(nodes, "edge-router")
			other, ok := tailnettest.Find(nodes, "desktop")
			if !ok {
				t.Fatal("the desktop has not joined")
			}
			ln, err := desktop.Listen("tcp", net.JoinHostPort(other.IPs[0].String(), "80"))
			if err != nil {
				t.Fatal(err)
			}
			srv := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { rw.Write(make([]byte, size)) })}
			go srv.Serve(ln)
			t.Cleanup(func() { srv.Close() })

			// path waits until the path to the desktop is as named.
			path := func(want string) {
				t.Helper()
				testwait.Until(t, "the path "+want, func() error {
					out, _ := c.sh(binary("tailscale"), "--socket="+c.socket, "ping", "--c=3", "--timeout=2s", other.IPs[0].String())
					if !strings.Contains(out, want) {
						return p.unlessEnded(fmt.Errorf("tailscale ping: %s", out))
					}
					return nil
				})
			}
			rate := func() float64 {
				t.Helper()
				out, code := c.sh("curl", "-sS", "--max-time", "60", "-o", "/dev/null", "-w", "%{size_download} %{time_total}", "http://"+other.IPs[0].String()+"/")
				var n, seconds float64
				if _, err := fmt.Sscan(out, &n, &seconds); code != 0 || err != nil || n != size {
					t.Errorf("the download: exit %d: %s", code, out)
				}
				return n * 8 / seconds / 1e6
			}
			// best is the best of some downloads of a fifth of a second, which other programs disturb.
			best := func() (most float64) {
				for range 5 {
					most = max(most, rate())
				}
				return most
			}
			path("via DERP")
			byDERP := rate()

			grant := func(dst []netip.Addr, capability string, src ...string) tailnettest.Rule {
				var to []string
				for _, a := range dst {
					to = append(to, a.String())
				}
				return tailnettest.Rule{Src: src, Dst: to, App: map[string][]string{capability: {"{}"}}}
			}
			laptop, _ := tailnettest.Find(nodes, "laptop")
			allow := func(at []netip.Addr) {
				t.Helper()
				var relay []string
				for _, a := range at {
					relay = append(relay, a.String())
				}
				if err := control.SetPolicy(t.Context(), tailnettest.Policy{
					AutoApprovers: map[string][]netip.Prefix{tag: approvedRanges},
					Rules: []tailnettest.Rule{
						{Src: []string{"*"}, Dst: []string{"*"}},
						// Control makes both of one grant.
						grant(at, "tailscale.com/cap/relay", "*"),
						grant(laptop.IPs, "tailscale.com/cap/relay-target", relay...),
						grant(other.IPs, "tailscale.com/cap/relay-target", relay...),
					},
				}); err != nil {
					t.Fatal(err)
				}
			}
			allow(router.IPs)
			path("via peer-relay(")
			byRelay := best()
			if out, code := r.run("router", "status"); code != 0 || !strings.Contains(out, "role: peer relay: UDP port 40000, 1 sessions") {
				t.Errorf("router status: exit %d: %s", code, out)
			}
			if _, metrics := r.get("/metrics"); !strings.Contains(metrics, `router_role{role="peer_relay",state="approved"} 1`) || !strings.Contains(metrics, "tailscaled_peer_relay_forwarded_bytes_total{") {
				t.Error("the metrics lack the peer relay")
			}
			// The relay's port is on the deny list: no client reaches it by way of a route.
			denied := func() string {
				_, metrics := r.get("/metrics")
				_, rest, _ := strings.Cut(metrics, "\nrouter_denied_packets_total ")
				line, _, _ := strings.Cut(rest, "\n")
				return line
			}
			before := denied()
			c.awaitRoute("10.0.0.0/16")
			if conn, err := w.client.Dial(t.Context(), "udp", net.JoinHostPort(routerVPC, "40000")); err == nil {
				conn.Write([]byte("hello"))
				conn.Close()
			}
			testwait.Until(t, "the denial", func() error {
				if denied() == before {
					return fmt.Errorf("router_denied_packets_total stays at %s", before)
				}
				return nil
			})
			if code := r.stop(); code != 0 {
				t.Errorf("exit code %d after SIGTERM, want 0", code)
			}
			// tailscaled in its place.
			stockAt, key := w.newStockHost()
			_, socket := w.startStockAs("stock", stockAt, mode, "", key)
			tailscale(t, socket, "set", "--relay-server-port=40000")
			allow(w.bothAddresses("stock"))
			path("via peer-relay(")
			byStock := best()
			t.Logf("%.0f Mbit/s by DERP, %.0f by the router's peer relay, %.0f by tailscaled's", byDERP, byRelay, byStock)
			if byRelay < byStock/3 {
				t.Errorf("the router's relay has %.0f Mbit/s, tailscaled's %.0f", byRelay, byStock)
			}
		})
	}
}
