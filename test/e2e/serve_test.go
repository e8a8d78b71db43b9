package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"
)

// TestServe reaches a program on the router's loopback, as in another container of its task, and a host of
// the VPC at ports of the node's own name, in both modes. A port needs an access rule, and the other
// ports stay closed.
func TestServe(t *testing.T) {
	for _, mode := range []string{"userspace", "kernel"} {
		t.Run(mode, func(t *testing.T) {
			w := newWorld(t, worldOptions{zones: map[string]netip.Addr{"corp.test": netip.MustParseAddr(dbHost)}}) // MagicDNS is on
			serveApplication(t, w)
			r := w.startRouter(routerOptions{root: mode == "kernel", env: map[string]string{
				"ROUTER_MODE": mode, "ROUTER_SERVE": "80=localhost:8080,8000=" + dbHost + ":80,9=localhost:9",
			}})
			c := w.startClientWith(true)
			r.awaitReady()
			var addrs []netip.Addr
			w.await("the router's addresses", func(nodes []tailnettest.Node) bool {
				n, ok := tailnettest.Find(nodes, "edge-router")
				addrs = n.IPs
				return ok && len(addrs) == 2
			})
			for url, want := range map[string]string{
				"http://edge-router/":                            "application",
				"http://" + addrs[0].String() + "/":              "application",
				"http://[" + addrs[1].String() + "]/":            "application",
				"http://" + addrs[0].String() + ":8000/":         "hello from " + dbHost,
				"http://[" + addrs[1].String() + "]:8000/":       "hello from " + dbHost,
				"http://" + addrs[0].String() + "/?bytes=200000": strings.Repeat("x", 200000),
			} {
				testwait.Until(t, url, func() error {
					out, code := c.resolving("curl", "-gsS", "-m", "5", url)
					if code != 0 || !strings.HasPrefix(out, want) {
						return fmt.Errorf("curl %s: exit code %d, %.100q", url, code, out)
					}
					return nil
				})
			}
			for _, target := range []string{
				net.JoinHostPort(addrs[0].String(), "8080"), net.JoinHostPort(addrs[0].String(), "9002"), net.JoinHostPort(addrs[0].String(), "9"),
				net.JoinHostPort(addrs[1].String(), "443"),
			} {
				if w.reachesTCP(target) {
					t.Errorf("%s is open", target)
				}
			}
			r.stop()
			// All other ports of one host, as with the official image's TS_DEST_IP.
			r = w.startRouter(routerOptions{root: mode == "kernel", env: map[string]string{
				"ROUTER_MODE": mode, "ROUTER_SERVE": "8000=localhost:8080,*=" + secondHost, "ROUTER_HOSTNAME": "all-ports",
			}})
			r.awaitReady()
			w.await("the second router's addresses", func(nodes []tailnettest.Node) bool {
				n, ok := tailnettest.Find(nodes, "all-ports")
				addrs = n.IPs
				return ok && len(addrs) == 2
			})
			for _, addr := range addrs {
				for port, want := range map[string]string{"8000": "application", "80": "hello from " + secondHost} {
					testwait.Until(t, port, func() error {
						out, code := c.sh("curl", "-gsS", "-m", "5", "http://"+net.JoinHostPort(addr.String(), port)+"/")
						if code != 0 || !strings.HasPrefix(out, want) {
							return fmt.Errorf("curl %s, port %s: exit code %d, %.100q", addr, port, code, out)
						}
						return nil
					})
				}
				testwait.Until(t, "UDP", func() error { return echoUDP(t.Context(), w, net.JoinHostPort(addr.String(), "7"), 1000) })
			}
			if w.reachesTCP(net.JoinHostPort(addrs[0].String(), "9002")) {
				t.Error("the router's own listener is open")
			}
			control, ours := w.testControl()
			if !ours {
				return
			}
			p := tailnettest.Policy{
				Failover: time.Second, AutoApprovers: map[string][]netip.Prefix{tag: approvedRanges, otherTag: approvedRanges},
				Rules: []tailnettest.Rule{{Src: []string{"*"}, Dst: []string{"10.0.0.0/16"}}},
			}
			if err := control.SetPolicy(t.Context(), p); err != nil {
				t.Fatal(err)
			}
			testwait.Until(t, "the port to be closed by the policy", func() error {
				if w.reachesTCP(net.JoinHostPort(addrs[0].String(), "80")) {
					return fmt.Errorf("port 80 is still open")
				}
				return nil
			})
			if code := r.stop(); code != 0 {
				t.Errorf("exit code %d after SIGTERM, want 0", code)
			}
		})
	}
}

// serveApplication serves HTTP on port 8080 of the router's loopback.
func serveApplication(t *testing.T, w *world) {
	t.Helper()
	ln, err := w.routerHost.Listen("tcp", "127.0.0.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("bytes") != "" {
			io.WriteString(rw, strings.Repeat("x", 200000))
			return
		}
		io.WriteString(rw, "application")
	})}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Shutdown(context.Background()) })
}
