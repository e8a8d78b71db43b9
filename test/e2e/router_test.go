package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"subnetrouter/internal/awstest"
	"subnetrouter/internal/tailnettest"
)

// TestRouter tests the main path: start with a secret's name, join the tailnet, advertise the
// VPC, forward traffic into it, serve metrics, log out. It does so in each mode and on each
// launch type; the tasks differ only as ECS makes them differ.
func TestRouter(t *testing.T) {
	for _, tc := range []struct {
		name string
		mode string // that the router should choose
		root bool
	}{
		{name: "userspace on Fargate", mode: "userspace"},
		{name: "kernel on EC2", mode: "kernel", root: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, worldOptions{})
			if tc.mode == "kernel" {
				w.metadata.Update(func(task *awstest.Task) {
					task.LaunchType, task.VPCID = "EC2", w.aws.VPCs[0].ID
				})
			}
			r := w.startRouter(routerOptions{root: tc.root})
			c := w.startClient()
			r.awaitReady()
			for _, p := range w.advertised {
				c.awaitRoute(p.String())
			}

			t.Run("chose the mode", func(t *testing.T) {
				if want := `"msg":"forwarding mode chosen","mode":"` + tc.mode + `"`; !strings.Contains(r.out.String(), want) {
					t.Errorf("the log lacks %s", want)
				}
			})
			t.Run("advertised and approved", func(t *testing.T) { checkRoutes(t, w) })
			for _, host := range []string{dbHost, secondHost, w.host6.String()} {
				t.Run("reaches "+host, func(t *testing.T) { checkReach(t, c, host) })
			}
			t.Run("refuses at once", func(t *testing.T) { checkRefusal(t, w) })
			t.Run("operators' commands", func(t *testing.T) { checkCommands(t, r, tc.mode) })
			t.Run("metrics", func(t *testing.T) { checkMetrics(t, r) })
			t.Run("leaves", func(t *testing.T) {
				if code := r.stop(); code != 0 {
					t.Errorf("exit code %d after SIGTERM, want 0", code)
				}
				w.await("the router to be gone", func(nodes []tailnettest.Node) bool {
					_, there := tailnettest.Find(nodes, "edge-router")
					return !there
				})
				if strings.Contains(r.out.String(), w.routerKey.Reveal()) {
					t.Error("the log shows the auth key")
				}
			})
		})
	}
}

func checkRoutes(t *testing.T, w *world) {
	nodes, _ := w.control.Nodes(t.Context())
	n, ok := tailnettest.Find(nodes, "edge-router") // from the family Edge_Router
	if !ok {
		t.Fatalf("control has no node edge-router: %v", nodes)
	}
	want := sorted(w.advertised)
	if len(want) != 3 {
		t.Fatalf("the VPC has %v, want two IPv4 CIDRs and an IPv6 one", want)
	}
	for state, got := range map[string][]netip.Prefix{"advertised": n.Advertised, "approved": n.Approved, "primary": n.Primary} {
		if !slices.Equal(sorted(got), want) {
			t.Errorf("%s %v, want %v", state, got, want)
		}
	}
	if !n.Ephemeral || !slices.Equal(n.Tags, []string{tag}) {
		t.Errorf("ephemeral %v, tags %v", n.Ephemeral, n.Tags)
	}
}

func sorted(ps []netip.Prefix) []netip.Prefix {
	return slices.SortedFunc(slices.Values(ps), func(a, b netip.Prefix) int { return a.Compare(b) })
}

// checkReach reaches the host with common programs.
func checkReach(t *testing.T, c *client, host string) {
	url := "http://" + net.JoinHostPort(host, "80") + "/"
	if out, code := c.sh("curl", "-sS", "--max-time", "10", url); code != 0 || !strings.HasPrefix(out, "hello from "+host) {
		t.Errorf("curl: exit %d: %s", code, out)
	}
	out, code := c.sh("sh", "-c", "head -c 5000000 /dev/zero | curl -sS --max-time 30 --data-binary @- "+url+" | wc -c")
	if code != 0 || strings.TrimSpace(out) != "5000000" {
		t.Errorf("posting 5 MB there and back: exit %d: %s", code, out)
	}
	if out, code := c.sh("dig", "+short", "+tries=2", "@"+host, "db.internal", "A"); code != 0 || strings.TrimSpace(out) != dbHost {
		t.Errorf("dig: exit %d: %s", code, out)
	}
	if out, code := c.sh("ping", "-n", "-c", "3", "-i", "0.2", "-W", "5", host); code != 0 || !strings.Contains(out, " 0% packet loss") {
		t.Errorf("ping: exit %d: %s", code, out)
	}
	if err := echoUDP(t.Context(), c.w, net.JoinHostPort(host, "7"), 1200); err != nil {
		t.Errorf("UDP: %v", err)
	}
}

// echoUDP sends a datagram from the client until it receives the echo.
func echoUDP(ctx context.Context, w *world, address string, size int) error {
	conn, err := w.client.Dial(ctx, "udp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	buf := make([]byte, 65535)
	for range 5 {
		if _, err = conn.Write(make([]byte, size)); err != nil {
			return err
		}
		conn.SetReadDeadline(time.Now().Add(time.Second))
		var n int
		if n, err = conn.Read(buf); err == nil {
			if n != size {
				return fmt.Errorf("sent %d bytes, got %d", size, n)
			}
			return nil
		}
	}
	return err
}

func checkRefusal(t *testing.T, w *world) {
	for _, host := range []string{dbHost, w.host6.String()} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		start := time.Now()
		_, err := w.client.Dial(ctx, "tcp", net.JoinHostPort(host, "81"))
		if took := time.Since(start); !errors.Is(err, syscall.ECONNREFUSED) || took > 2*time.Second {
			t.Errorf("connecting to a closed port of %s returned %v after %v, want a refusal at once", host, err, took)
		}
	}
}

func checkCommands(t *testing.T, r *router, mode string) {
	for _, tc := range []struct {
		name string
		args []string
		want string
	}{
		{"router", []string{"healthcheck"}, ""},
		{"router", []string{"healthcheck", "--ready"}, ""},
		{"router", []string{"status"}, "edge-router: ready (Running, " + mode + " mode"},
		{"router", []string{"status", "--json"}, `"state": "Running"`},
		{"router", []string{"version"}, "tailscale 1.104.5"},
		{"router", []string{"plan"}, "10.8.0.0/16"},
		{"image/tailscale", []string{"--socket", r.socket(), "status"}, "edge-router"},
	} {
		out, code := r.run(tc.name, tc.args...)
		if code != 0 || !strings.Contains(out, tc.want) {
			t.Errorf("%s %v: exit %d, want %q in:\n%s", tc.name, tc.args, code, tc.want, out)
		}
	}
}

func (r *router) socket() string {
	for _, e := range r.env {
		if path, ok := strings.CutPrefix(e, "ROUTER_SOCKET="); ok {
			return path
		}
	}
	return ""
}

func checkMetrics(t *testing.T, r *router) {
	code, body := r.get("/metrics")
	if code != 200 {
		t.Fatalf("HTTP %d: %s", code, body)
	}
	for _, want := range []string{
		"router_ready 1\n", "router_primary_routes 3\n", `router_bootstrap_failures_total{step="routes"} 0`,
		"tailscaled_advertised_routes 3\n", "tailscaled_approved_routes 3\n", "tailscaled_inbound_bytes_total{",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("/metrics lacks %q", want)
		}
	}
	if strings.Contains(body, r.w.routerKey.Reveal()) {
		t.Error("/metrics shows the auth key")
	}
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		skipOrFail(t, "promtool is not on PATH")
	}
	cmd := exec.Command(promtool, "check", "metrics")
	cmd.Stdin = strings.NewReader(body)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool check metrics: %v: %s", err, out)
	}
}
