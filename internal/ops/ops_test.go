package ops

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"subnetrouter/internal/testwait"

	"github.com/prometheus/client_golang/prometheus"
)

type fake struct {
	live    error
	reasons []Reason
	engine  string
}

func serve(t *testing.T, f *fake) (url string) {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	up := prometheus.NewGauge(prometheus.GaugeOpts{Name: "router_ready", Help: "Ready."})
	registry.MustRegister(up)
	s, err := Listen(Config{
		Listen:   "127.0.0.1:0",
		Gatherer: registry,
		Engine:   func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, f.engine) },
		Live:     func() error { return f.live },
		NotReady: func() []Reason { return f.reasons },
		Status: func() Status {
			return Status{Node: Node{Name: "edge", IPs: []string{"100.64.0.1"}}, Routes: []RouteStatus{{Prefix: "10.0.0.0/16"}}}
		},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := testwait.Receive(t, "Serve to end with its context", served); err != nil {
			t.Error(err)
		}
	})
	return "http://" + s.Addr().String()
}

func get(t *testing.T, url string) (code int, contentType, body string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("Content-Type"), string(b)
}

func TestReadyz(t *testing.T) {
	f := &fake{reasons: []Reason{{Code: "routes_unapproved", Message: "10.0.0.0/16 <awaits> approval", Fix: `{"autoApprovers":{}}`}}}
	url := serve(t, f)
	code, contentType, body := get(t, url+"/readyz")
	var got Readiness
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	if code != http.StatusServiceUnavailable || contentType != "application/json" || got.Ready || len(got.Reasons) != 1 || got.Reasons[0] != f.reasons[0] {
		t.Errorf("not ready: HTTP %d %s %s", code, contentType, body)
	}
	f.reasons = nil
	if code, _, body := get(t, url+"/readyz"); code != http.StatusOK || strings.Join(strings.Fields(body), "") != `{"ready":true,"reasons":[]}` {
		t.Errorf("ready: HTTP %d %s", code, body)
	}
}

func TestHealthz(t *testing.T) {
	f := &fake{}
	url := serve(t, f)
	if code, _, body := get(t, url+"/healthz"); code != http.StatusOK {
		t.Errorf("live: HTTP %d %s", code, body)
	}
	f.live = errors.New("the engine did not answer within 3s")
	if code, _, body := get(t, url+"/healthz"); code != http.StatusServiceUnavailable || !strings.Contains(body, f.live.Error()) {
		t.Errorf("not live: HTTP %d %s", code, body)
	}
}

// TestStarted: readiness counts once, so that a deployment can wait for it, and a later
// failure of the tailnet does not restart the task.
func TestStarted(t *testing.T) {
	f := &fake{reasons: []Reason{{Code: "starting"}}}
	url := serve(t, f)
	if code, _, body := get(t, url+"/healthz/started"); code != http.StatusServiceUnavailable || !strings.Contains(body, "starting") {
		t.Errorf("not ready yet: HTTP %d %s", code, body)
	}
	f.reasons = nil
	if code, _, body := get(t, url+"/healthz/started"); code != http.StatusOK {
		t.Errorf("ready: HTTP %d %s", code, body)
	}
	f.reasons = []Reason{{Code: "probe_failed"}}
	if code, _, body := get(t, url+"/healthz/started"); code != http.StatusOK {
		t.Errorf("no longer ready: HTTP %d %s", code, body)
	}
	f.live = errors.New("the engine did not answer within 3s")
	if code, _, body := get(t, url+"/healthz/started"); code != http.StatusServiceUnavailable {
		t.Errorf("no longer live: HTTP %d %s", code, body)
	}
}

func TestMetricsJoinBothRegistries(t *testing.T) {
	f := &fake{engine: "# TYPE tailscaled_approved_routes gauge\n# HELP tailscaled_approved_routes Approved.\ntailscaled_approved_routes 3\n" +
		"# TYPE tailscaled_inbound_bytes_total counter\n# HELP tailscaled_inbound_bytes_total Bytes.\ntailscaled_inbound_bytes_total{path=\"derp\"} 42\n"}
	url := serve(t, f)
	_, _, body := get(t, url+"/metrics")
	for _, want := range []string{"router_ready 0\n", "tailscaled_approved_routes 3\n", "tailscaled_inbound_bytes_total{path=\"derp\"} 42\n"} {
		if !strings.Contains(body, want) {
			t.Errorf("/metrics lacks %q in\n%s", want, body)
		}
	}
	// An error of the engine must not hide the router's own series.
	f.engine = "this is { not metrics"
	if code, _, body := get(t, url+"/metrics"); code != http.StatusOK || !strings.Contains(body, "router_ready 0\n") {
		t.Errorf("with a broken engine: HTTP %d\n%s", code, body)
	}
}

func TestStatusAndPage(t *testing.T) {
	url := serve(t, &fake{})
	_, _, body := get(t, url+"/status")
	var s Status
	if err := json.Unmarshal([]byte(body), &s); err != nil || s.Node.Name != "edge" || len(s.Routes) != 1 {
		t.Errorf("%v: %s", err, body)
	}
	code, contentType, body := get(t, url+"/")
	if code != http.StatusOK || !strings.HasPrefix(contentType, "text/html") || strings.Contains(body, "http://") || strings.Contains(body, "https://") {
		t.Errorf("the page: HTTP %d %s; it must not load anything from another host", code, contentType)
	}
	if code, _, _ := get(t, url+"/no-such-page"); code != http.StatusNotFound {
		t.Errorf("an unknown path: HTTP %d", code)
	}
	resp, err := http.Post(url+"/status", "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: HTTP %d, want read-only", resp.StatusCode)
	}
}

func TestListenNamesTheVariable(t *testing.T) {
	_, err := Listen(Config{Listen: "127.0.0.1:notaport"})
	if err == nil || !strings.HasPrefix(err.Error(), "listening on ROUTER_LISTEN=127.0.0.1:notaport: ") {
		t.Errorf("error %v", err)
	}
}
