package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"subnetrouter/internal/awstest"
	"subnetrouter/internal/testwait"
)

// TestDashboard sends each query of the dashboard to a real Prometheus that scrapes two real
// routers under load.
func TestDashboard(t *testing.T) {
	w := newWorld(t, worldOptions{})
	w.startResolver()
	w.serveEchoTCP(net.JoinHostPort(dbHost, "5432"))
	with := func(name string) routerOptions {
		return routerOptions{env: map[string]string{"ROUTER_HOSTNAME": name, "ROUTER_PROBE": net.JoinHostPort(dbHost, "80"), "ROUTER_DNS": "on"}}
	}
	w.startRouter(with("router-a")).awaitReady()
	w.alongside("192.168.77.31", "10.0.1.6").startRouter(with("router-b")).awaitReady()
	c := w.startClient()
	c.awaitRoute("10.0.0.0/16")
	p := w.startPrometheus(routerIP+":9002", "192.168.77.31:9002")

	w.load(c, 15*time.Second)

	panels, variables := readDashboard(t)
	for _, panel := range panels {
		for _, target := range panel.Targets {
			got := p.query(t, target.query())
			switch why, mayBeEmpty := emptyPanels[panel.Title+" "+target.RefID]; {
			case got.err != "":
				t.Errorf("%s: %s: %s", panel.Title, target.Expr, got.err)
			case got.values == 0 && !mayBeEmpty:
				t.Errorf("%s: %s: no data", panel.Title, target.Expr)
			case got.values > 0 && mayBeEmpty:
				t.Errorf("%s: %s has data; emptyPanels expects none: %s", panel.Title, target.Expr, why)
			}
		}
	}
	for name := range emptyPanels {
		if !slices.ContainsFunc(panels, func(p dashboardPanel) bool {
			return slices.ContainsFunc(p.Targets, func(t dashboardTarget) bool { return p.Title+" "+t.RefID == name })
		}) {
			t.Errorf("no panel %q", name)
		}
	}
	// The variables select one router or several.
	for name, want := range map[string]int{"cluster": 1, "router": 2} {
		m := labelValues.FindStringSubmatch(variables[name])
		if m == nil {
			t.Fatalf("$%s has the query %q", name, variables[name])
		}
		if got := p.query(t, dashboardTarget{Expr: "group by (" + m[2] + ") (" + m[1] + ")"}.query()); got.values != want {
			t.Errorf("$%s has %d values, want %d: %+v", name, got.values, want, got)
		}
	}
	if all, one := p.query(t, `router_ready{cluster=~".*",instance=~".*"}`), p.query(t, `router_ready{cluster=~"e2e",instance=~"192.168.77.31:9002"}`); all.values != 2 || one.values != 1 {
		t.Errorf("all routers have %d values, one has %d", all.values, one.values)
	}
}

// emptyPanels lists the queries, by panel and target, without data for a healthy router,
// and why.
var emptyPanels = map[string]string{
	"Denied and dropped packets C":                     "the tailnet's access rules allow everything",
	"Logins that failed A":                             "no login failed",
	"Credential, node key and certificate expire in A": "the secret has no expires_at",
	"Credential, node key and certificate expire in B": "the key of a node with tags does not expire",
	"Credential, node key and certificate expire in C": "no served port has TLS",
}

type dashboardTarget struct{ RefID, Expr string }

type dashboardPanel struct {
	Title   string
	Targets []dashboardTarget
}

// query returns the expression as Grafana sends it.
func (d dashboardTarget) query() string {
	return strings.NewReplacer("$cluster", "e2e", "$router", ".*", "$__rate_interval", "10s").Replace(d.Expr)
}

// labelValues matches Grafana's query for the values of a variable.
var labelValues = regexp.MustCompile(`^label_values\((.+), (\w+)\)$`)

func readDashboard(t *testing.T) (panels []dashboardPanel, variables map[string]string) {
	t.Helper()
	text, err := os.ReadFile("../../deploy/grafana/subnetrouter.json")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Panels     []dashboardPanel
		Templating struct {
			List []struct{ Name, Definition string }
		}
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	variables = map[string]string{}
	for _, v := range d.Templating.List {
		variables[v.Name] = v.Definition
	}
	return d.Panels, variables
}

// alongside returns a copy of the world with a host for another router in the same VPC.
func (w *world) alongside(internetIP, vpcIP string) *world {
	o := *w
	o.routerHost = w.newRouterHost("router2", internetIP, vpcIP)
	o.startMetadata(func(task *awstest.Task) {
		task.IPv4, task.IPv6 = []netip.Addr{netip.MustParseAddr(vpcIP)}, nil
	})
	return &o
}

// load makes the client send every kind of traffic to the VPC for d.
func (w *world) load(c *client, d time.Duration) {
	ctx, cancel := context.WithTimeout(w.t.Context(), d)
	defer cancel()
	stream := w.startStream(net.JoinHostPort(dbHost, "5432"))
	var wg sync.WaitGroup
	every := func(pause time.Duration, f func(i int)) {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				f(i)
				select {
				case <-time.After(pause):
				case <-ctx.Done():
				}
			}
		})
	}
	every(500*time.Millisecond, func(i int) {
		bytes := int(2e6 * (1 + math.Sin(float64(i)/10)))
		c.sh("curl", "-fsS", "-o", "/dev/null", "--max-time", "10", fmt.Sprintf("http://%s/?bytes=%d", dbHost, bytes+1000))
		c.sh("curl", "-fsS", "-o", "/dev/null", "--max-time", "10", fmt.Sprintf("http://%s/?bytes=%d", secondHost, bytes/3+1000))
	})
	if w.resolver != nil {
		every(200*time.Millisecond, func(i int) { askName(w, resolverHost, fmt.Sprintf("host%d.%s.", i/4, privateZone), time.Second) })
	}
	every(300*time.Millisecond, func(int) { echoUDP(ctx, w, net.JoinHostPort(dbHost, "7"), 1000) })
	every(time.Second, func(int) {
		if conn, err := w.client.Dial(ctx, "tcp", net.JoinHostPort(dbHost, "81")); err == nil { // nothing listens there
			conn.Close()
		}
		c.sh("ping", "-n", "-c", "1", "-W", "1", dbHost)
	})
	wg.Wait()
	if _, _, err := stream.stop(); err != nil {
		w.t.Error(err)
	}
}

// prometheus is a running Prometheus server.
type prometheus struct{ url string }

func (w *world) startPrometheus(targets ...string) *prometheus {
	t := w.t
	t.Helper()
	program, err := exec.LookPath("prometheus")
	if err != nil {
		skipOrFail(t, "no prometheus: run scripts/tools")
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	text := "global: {scrape_interval: 1s}\nscrape_configs:\n  - job_name: subnetrouter\n    static_configs:\n" +
		"      - {targets: ['" + strings.Join(targets, "', '") + "'], labels: {cluster: e2e}}\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &prometheus{url: "http://" + selfIP + ":9090"}
	start(t, "prometheus", exec.Command(program, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+selfIP+":9090", "--log.level=warn"))
	testwait.Until(t, "Prometheus to scrape the routers", func() error {
		if p.query(t, "count(up == 1) == "+strconv.Itoa(len(targets))).values == 0 {
			return fmt.Errorf("not all of %v are up", targets)
		}
		return nil
	})
	return p
}

type answer struct {
	values int // number of numeric values
	err    string
}

func (p *prometheus) query(t *testing.T, expr string) answer {
	return p.ask(t, "/api/v1/query?"+url.Values{"query": {expr}}.Encode())
}

func (p *prometheus) ask(t *testing.T, path string) (out answer) {
	t.Helper()
	resp, err := http.Get(p.url + path)
	if err != nil {
		return answer{err: err.Error()}
	}
	defer resp.Body.Close()
	var body struct {
		Error string
		Data  struct {
			Result []struct{ Value []any }
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		return answer{err: err.Error()}
	}
	out.err = body.Error
	for _, r := range body.Data.Result {
		if len(r.Value) < 2 {
			continue
		}
		text, _ := r.Value[1].(string)
		if n, err := strconv.ParseFloat(text, 64); err == nil && !math.IsNaN(n) && !math.IsInf(n, 0) {
			out.values++
		}
	}
	return out
}
