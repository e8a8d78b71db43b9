package ops

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"subnetrouter/internal/browsertest"
	"subnetrouter/internal/problem"

	"github.com/prometheus/client_golang/prometheus"
)

// hostile is a text that the page must show unchanged wherever it appears.
func hostile(n int) string {
	return fmt.Sprintf(`<img src=x onerror="window.broken=%d"><script>window.broken=%d</script>"'&amp;%d`, n, n, n)
}

// everything returns a status with text in each field of that type; it calls text once for
// each field.
func everything(text func() string) Status {
	now := time.Now()
	return Status{
		Version: Version{Router: text(), Commit: text(), Tailscale: text()}, Started: now.Add(-time.Hour),
		Reasons:  []Reason{{Code: problem.Code(text()), Title: text(), Message: text(), Fix: text()}},
		Warnings: []Reason{{Code: problem.Code(text()), Title: text(), Message: text(), Fix: text()}},
		Mode:     Mode{Name: text(), Why: text()},
		Place:    Place{Cluster: text(), Family: text(), TaskARN: text(), LaunchType: text(), Region: text(), Zone: text(), VPC: text(), Subnet: text()},
		Node:     Node{State: text(), Name: text(), IPs: []string{text()}, KeyExpiry: now.Add(time.Hour), Health: map[string]string{"x": text()}},
		Routes: []RouteStatus{
			{Prefix: text(), Source: text(), Advertised: true, Approved: true, Primary: true},
			{Prefix: text(), Source: text(), Refused: text()},
		},
		RoutesFound: now.Add(-2 * time.Minute), RoutesError: text(), Notes: []string{text()},
		DNS:             &DNS{SplitDNS: text(), Zones: []Zone{{Name: text(), Source: text()}}, Notes: []string{text()}},
		DNSRegistration: DNSRegistration{State: text(), Message: text()},
		Access: &Access{Mode: text(), Targets: 3, LookedUp: now.Add(-4 * time.Minute), Error: text(), Peers: 2, Rules: 5, Malformed: 1, Allowed: 7, Denied: 8,
			Denials: []Denial{{Time: now.Add(-5 * time.Minute), Protocol: text(), Client: text(), Node: text(), Target: text(), Interface: text()}}},
		Flows: Flows{TCP: 1, UDP: 1, Limit: 1000, LimitPerPeer: 400, Live: []Flow{
			{Protocol: text(), Client: text(), Node: text(), Target: text(), Opened: now.Add(-time.Minute), ToVPCBytes: 5 << 20, ToTailnetBytes: 3},
			{Protocol: text(), Client: text(), Target: text(), Opened: now},
		}},
		Egress: &Egress{Connections: Use{Used: 3, Limit: 1024}, Targets: []EgressTarget{{Target: text(), Open: 4, Opened: 56789, ToTailnetBytes: 7 << 20, ToVPCBytes: 8 << 10}}},
		Peers: Peers{Total: 3, Direct: 1, DERP: 1, Idle: 1, List: []Peer{
			{Name: text(), User: text(), IP: text(), Path: "direct", Via: text(), LatencySeconds: .0123, ToPeerBytes: 1, FromPeerBytes: 2048, Handshake: now.Add(-3 * time.Minute)},
			{Name: text(), Tags: []string{text()}, IP: text(), Path: text(), Via: text()},
		}},
		Events: []Event{{Time: now, Level: "ERROR", Message: text(), Detail: []string{text(), text()}}},
		Limits: Limits{Flows: Use{Used: 2, Limit: 1000}, MemoryBytes: Use{Used: 100 << 20, Limit: 512 << 20}, OpenFiles: Use{Used: 30}},
	}
}

// serveStatus serves the result of status; edit may change the configuration.
func serveStatus(t *testing.T, listen string, status func() Status, edit func(*Config)) *Server {
	t.Helper()
	cfg := Config{
		Listen: listen, Gatherer: prometheus.NewRegistry(), Live: func() error { return nil },
		NotReady: func() []Reason { return nil }, Status: status, Logger: slog.New(slog.DiscardHandler),
	}
	if edit != nil {
		edit(&cfg)
	}
	s, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestPageTakesTextForText shows a status with a hostile text in every field: others
// choose the names of hosts and peers.
func TestPageTakesTextForText(t *testing.T) {
	var texts []string
	status := everything(func() string {
		texts = append(texts, hostile(len(texts)+1))
		return texts[len(texts)-1]
	})
	s := serveStatus(t, "127.0.0.1:0", func() Status { return status }, nil)
	p := browsertest.Open(t, "http://"+s.Addr().String()+"/", browsertest.Options{})
	text := p.Await("the routes", func(text string) bool {
		return strings.Contains(text, hostile(slices.Index(texts, status.Routes[0].Prefix)+1))
	})
	for _, want := range texts {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not show %s as it is", want)
		}
	}
	for what, want := range map[string]string{"a size": "5.0 MiB", "a latency": "12.3 ms", "an age": "3 min ago", "a share": "20%", "no limit": "none",
		"connections into the tailnet": "3 of 1024 connections", "flows to a target": "56789", "bytes to a target": "7.0 MiB"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not show %s, %q:\n%s", what, want, text)
		}
	}
	broken := browsertest.Evaluate[bool](p, "window.broken !== undefined || document.querySelector('img, script:not(:last-of-type)') !== null || document.scripts.length !== 1")
	if broken {
		t.Error("a name was interpreted as HTML")
	}
	if troubles := p.Troubles(); len(troubles) > 0 {
		t.Errorf("the browser reports %q", troubles)
	}
	// The policy also restricts the page's own script.
	if got := browsertest.Evaluate[string](p, `try { document.body.innerHTML = "<b>x</b>"; "taken" } catch (e) { e.name }`); got != "TypeError" {
		t.Errorf("setting innerHTML: %s, want TypeError", got)
	}
}

// TestPageRefreshesItself changes the status under an open page, then ends the router.
func TestPageRefreshesItself(t *testing.T) {
	ready := make(chan bool, 1)
	now := false
	ctx, cancel := context.WithCancel(t.Context())
	server := httpServer(ctx, t, func() Status {
		select {
		case now = <-ready:
		default:
		}
		s := everything(func() string { return "text" })
		s.Ready = now
		return s
	})
	p := browsertest.Open(t, server, browsertest.Options{Width: 360, Height: 740, Dark: true})
	p.Await("not ready", func(text string) bool { return strings.Contains(text, "not ready") })
	// On a phone nothing is wider than the screen, and dark mode makes the page dark.
	if wide := browsertest.Evaluate[int](p, "document.documentElement.scrollWidth"); wide > 360 {
		t.Errorf("the page is %d pixels wide on a screen of 360", wide)
	}
	if light := browsertest.Evaluate[string](p, "getComputedStyle(document.documentElement).colorScheme + matchMedia('(prefers-color-scheme: dark)').matches"); light != "light darktrue" {
		t.Errorf("color scheme %s", light)
	}
	ready <- true
	p.Await("ready", func(text string) bool { return strings.Contains(text, "ready") && !strings.Contains(text, "not ready") })
	cancel()
	p.Await("that nobody answers", func(text string) bool { return strings.Contains(text, "not answering") })
}

// TestPageShowsConditions: a person reads a headline, the message and the fix of reasons and
// warnings, words for the engine's state, and no empty attribute.
func TestPageShowsConditions(t *testing.T) {
	s := everything(func() string { return "text" })
	s.Reasons = []Reason{ReasonOf(&problem.Problem{Code: problem.ControlUnreachable, Message: "no route", Fix: "add a NAT gateway"})}
	s.Warnings = []Reason{ReasonOf(&problem.Problem{Code: problem.CredentialExpiring, Message: "ends tomorrow", Fix: "store a new one"})}
	s.Node.State = "NeedsLogin"
	s.Events = []Event{{Time: time.Now(), Level: "WARN", Message: "late", Detail: []string{"fix=", `hint=""`, "reason=starting"}}}
	server := serveStatus(t, "127.0.0.1:0", func() Status { return s }, nil)
	text := browsertest.Open(t, "http://"+server.Addr().String()+"/", browsertest.Options{}).
		Await("the reasons", func(text string) bool { return strings.Contains(text, "no route") })
	for _, want := range []string{
		"Cannot reach the control server", "control_unreachable", "add a NAT gateway",
		"Warning: The credential expires soon", "ends tomorrow", "store a new one", "has not accepted it yet", "reason=starting",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %q:\n%s", want, text)
		}
	}
	for _, not := range []string{"NeedsLogin", "fix=", "hint="} {
		if strings.Contains(text, not) {
			t.Errorf("the page shows %q:\n%s", not, text)
		}
	}
}

// TestPageShowsAccess: the section has the decisions in words for the mode, and is missing without ROUTER_ACCESS.
func TestPageShowsAccess(t *testing.T) {
	var access atomic.Pointer[Access]
	access.Store(&Access{Mode: "report", Targets: 3, LookedUp: time.Now().Add(-10 * time.Minute), Peers: 1, Rules: 2, Malformed: 1, Allowed: 7, Denied: 8})
	server := serveStatus(t, "127.0.0.1:0", func() Status {
		s := everything(func() string { return "text" })
		s.Access = access.Load()
		return s
	}, nil)
	p := browsertest.Open(t, "http://"+server.Addr().String()+"/", browsertest.Options{Width: 360, Height: 740})
	text := p.Await("the decisions", func(text string) bool { return strings.Contains(text, "8 would be denied") })
	for _, want := range []string{"Access report", "2 rules for 1 peer", "1 with an error", "3 targets, looked up 10 min ago", "7 allowed", "no denial yet"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %q:\n%s", want, text)
		}
	}
	access.Store(&Access{Mode: "grants", Targets: 3, Error: "AccessDenied", Denied: 8, Denials: []Denial{{Time: time.Now(), Protocol: "tcp", Client: "100.64.0.2", Target: "10.0.3.4:22"}}})
	text = p.Await("a failed look-up", func(text string) bool { return strings.Contains(text, "AccessDenied") })
	for _, want := range []string{"8 denied", "The last look-up of targets failed", "never looked up", "10.0.3.4:22", "100.64.0.2"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %q:\n%s", want, text)
		}
	}
	access.Store(nil)
	p.Await("no section", func(text string) bool {
		return !strings.Contains(text, "AccessDenied") && !strings.Contains(text, "would be denied")
	})
}

// TestPageShowsRates: a flow that moves 1 MiB between two refreshes shows a rate, one that
// ended in between shows none.
func TestPageShowsRates(t *testing.T) {
	var calls atomic.Int64
	server := serveStatus(t, "127.0.0.1:0", func() Status {
		s := everything(func() string { return "text" })
		n := calls.Add(1)
		s.Flows.Live = []Flow{{Protocol: "tcp", Client: "100.64.0.1:4000", Node: "laptop", Target: "10.0.3.4:5432", Opened: time.Unix(1_800_000_000, 0),
			ToVPCBytes: n << 20, ToTailnetBytes: 1 << 30}}
		return s
	}, nil)
	p := browsertest.Open(t, "http://"+server.Addr().String()+"/", browsertest.Options{})
	text := p.Await("a rate", func(text string) bool { return strings.Contains(text, "/s to the VPC") })
	// 1 MiB in the 3 s between two refreshes, which a busy machine makes longer.
	if got := regexp.MustCompile(`, ([0-9.]+) KiB/s to the VPC, 0 B/s to the tailnet`).FindStringSubmatch(text); got == nil {
		t.Errorf("no rate:\n%s", text)
	} else if kib, err := strconv.ParseFloat(got[1], 64); err != nil || kib <= 0 || kib > 1024/2.5 {
		t.Errorf("%s KiB/s", got[1])
	}
}

// httpServer starts a server that ends before the test does.
func httpServer(ctx context.Context, t *testing.T, status func() Status) (url string) {
	t.Helper()
	s, err := Listen(Config{
		Listen: "127.0.0.1:0", Gatherer: prometheus.NewRegistry(), Live: func() error { return nil },
		NotReady: func() []Reason { return nil }, Status: status, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(ctx)
	return "http://" + s.Addr().String() + "/"
}

// TestPrivateStatus: with ROUTER_STATUS_PAGE=off, only this host can read peers and flows,
// regardless of the address that the router listens on.
func TestPrivateStatus(t *testing.T) {
	private := func(c *Config) { c.Private = true }
	status := func() Status { return everything(func() string { return "text" }) }
	s := serveStatus(t, "0.0.0.0:0", status, private)
	_, port, _ := net.SplitHostPort(s.Addr().String())

	for _, host := range append([]string{"127.0.0.1"}, ownAddresses(t)...) {
		url := "http://" + net.JoinHostPort(host, port)
		if code, _, body := get(t, url+"/status"); code != http.StatusOK || !strings.Contains(body, "text") {
			t.Errorf("%s asks itself: HTTP %d", host, code)
		}
		if code, _, body := get(t, url+"/"); code != http.StatusNotFound || !strings.Contains(body, "ROUTER_STATUS_PAGE") || strings.Contains(body, "<") {
			t.Errorf("the page of %s: HTTP %d %s", host, code, body)
		}
		if code, _, _ := get(t, url+"/readyz"); code != http.StatusOK {
			t.Errorf("/readyz of %s: HTTP %d, want it unaffected", host, code)
		}
	}
	// test/e2e sends requests from another host; this tests only how the address is parsed.
	for from, want := range map[string]bool{
		"127.0.0.1:1": true, "[::1]:1": true, "[::ffff:127.0.0.1]:1": true, "198.51.100.6:1": false, "[2001:db8::1]:1": false, "": false,
	} {
		recorder := httptest.NewRecorder()
		s.status(recorder, &http.Request{RemoteAddr: from})
		if got := recorder.Code == http.StatusOK; got != want {
			t.Errorf("asked by %q: HTTP %d", from, recorder.Code)
		}
	}
}

// ownAddresses returns the machine's addresses except loopback; there may be none.
func ownAddresses(t *testing.T) (out []string) {
	t.Helper()
	list, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range list {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.To4() != nil && !ip.IP.IsLoopback() {
			out = append(out, ip.IP.String())
		}
	}
	return out
}

// TestPageIsAllowedItsOwnScript: the policy allows only the page's script and style, by
// their hashes.
func TestPageIsAllowedItsOwnScript(t *testing.T) {
	s := serveStatus(t, "127.0.0.1:0", func() Status { return Status{} }, nil)
	resp, err := http.Get("http://" + s.Addr().String() + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	policy := resp.Header.Get("Content-Security-Policy")
	if strings.Contains(policy, "unsafe") || !strings.HasPrefix(policy, "default-src 'none'; connect-src 'self'; img-src data:; ") || strings.Count(policy, "'sha256-") != 2 {
		t.Errorf("policy %s", policy)
	}
	if len(body) > 20<<10 {
		t.Errorf("the page has %d bytes; it must stay small", len(body))
	}
}
