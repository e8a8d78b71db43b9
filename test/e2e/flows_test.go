package e2e

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"subnetrouter/internal/ops"
)

// TestFlows follows flows from their opening to their line in the flow log, and reaches the
// limit.
func TestFlows(t *testing.T) {
	w := newWorld(t, worldOptions{})
	r := w.startRouter(routerOptions{env: map[string]string{"ROUTER_FLOW_LOG": "on", "ROUTER_MAX_FLOWS": "100", "ROUTER_MAX_FLOWS_PER_PEER": "6"}})
	c := w.startClient()
	r.awaitReady()
	c.awaitRoute("10.0.0.0/16")

	t.Run("a closed UDP port is refused at once", func(t *testing.T) {
		for _, host := range []string{dbHost, w.host6.String()} {
			conn := must(w.client.Dial(t.Context(), "udp", net.JoinHostPort(host, "9")))
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(5 * time.Second))
			conn.Write([]byte("anybody?"))
			if _, err := conn.Read(make([]byte, 10)); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("%s: %v, want refused", host, err)
			}
		}
	})
	t.Run("datagrams beyond the MTU", func(t *testing.T) {
		for _, size := range []int{1300, 9000, 40000} {
			if err := echoUDP(t.Context(), w, net.JoinHostPort(dbHost, "7"), size); err != nil {
				t.Errorf("%d bytes: %v", size, err)
			}
		}
		if out, code := c.sh("ping", "-n", "-c", "1", "-W", "5", "-s", "3000", dbHost); code != 0 {
			t.Errorf("ping of 3000 bytes: %s", out)
		}
	})
	t.Run("live flows and the limit", func(t *testing.T) {
		// Open are two UDP flows to the closed port, one of them from the client's IPv6
		// address, and three to the echo server: the client may open one more.
		conn := must(w.client.Dial(t.Context(), "tcp", net.JoinHostPort(dbHost, "80")))
		defer conn.Close()
		if _, err := w.client.Dial(t.Context(), "tcp", net.JoinHostPort(dbHost, "80")); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a flow beyond the limit: %v, want refused", err)
		}
		var s ops.Status
		_, body := r.get("/status")
		if err := json.Unmarshal([]byte(body), &s); err != nil {
			t.Fatal(err)
		}
		if s.Flows.TCP != 1 || s.Flows.UDP != 5 || s.Flows.LimitPerPeer != 6 || !slices.ContainsFunc(s.Flows.Live, func(f ops.Flow) bool {
			return f.Protocol == "tcp" && f.Node == "laptop" && f.Target == dbHost+":80"
		}) {
			t.Errorf("/status has the flows %+v", s.Flows)
		}
		io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n")
		if answer, err := io.ReadAll(conn); err != nil || !strings.Contains(string(answer), "hello from") {
			t.Errorf("the old flow: %q, %v", answer, err)
		}
	})
	t.Run("metrics by route", func(t *testing.T) {
		_, body := r.get("/metrics")
		for _, want := range []string{
			`router_route_dial_failures_total{reason="limit",route="10.0.0.0/16"} 1`,
			`router_route_dial_failures_total{reason="refused",route="other"} 0`,
			`router_route_bytes_total{direction="to_vpc",route="other"} 0`,
		} {
			if !strings.Contains(body, want+"\n") {
				t.Errorf("/metrics lacks %s", want)
			}
		}
		if strings.Contains(body, `router_route_bytes_total{direction="to_tailnet",route="10.0.0.0/16"} 0`) {
			t.Error("the VPC's route has no bytes")
		}
	})
	t.Run("flow log", func(t *testing.T) {
		r.awaitLog(`"msg":"flow","protocol":"tcp"`)
		for line := range strings.Lines(r.out.String()) {
			if !strings.Contains(line, `"msg":"flow","protocol":"tcp"`) {
				continue
			}
			var f struct {
				Node, Client, Target, Reason string
				Tags                         []string
				ToVPC                        int     `json:"to_vpc_bytes"`
				ToTailnet                    int     `json:"to_tailnet_bytes"`
				Duration                     float64 `json:"duration_seconds"`
			}
			if err := json.Unmarshal([]byte(line), &f); err != nil {
				t.Fatal(err)
			}
			if f.Node != "laptop" || !slices.Equal(f.Tags, []string{"tag:laptop"}) || f.Target != dbHost+":80" ||
				f.Reason != "ended" || f.ToVPC != 18 || f.ToTailnet < 50 || f.Duration <= 0 {
				t.Errorf("flow log has %s", line)
			}
		}
	})
}
