package router

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"subnetrouter/internal/forward"
	"subnetrouter/internal/limits"
	"subnetrouter/internal/routertest"
	"subnetrouter/internal/tailnet"
	"subnetrouter/internal/testwait"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// family describes one metric, as documented or as scraped.
type family struct{ kind, labels string }

// TestMetricsAreDocumented compares docs/metrics.md with a scrape of the real router: the
// same names, types and labels.
func TestMetricsAreDocumented(t *testing.T) {
	s := routertest.New(t)
	s.Env["ROUTER_FLOW_LOG"], s.Env["ROUTER_DNS"], s.Env["ROUTER_ACCESS"] = "on", "on", "grants"
	s.Env["ROUTER_EGRESS"] = routertest.FreeAddress(t) + "=db:5432"
	s.Env["ROUTER_SERVE"] = "443/https=localhost:8080,80/http=localhost:8080"
	r := start(t, s, Options{})
	// The engine shows a metric without label values yet as a type only.
	raw := httptest.NewRecorder()
	r.node.ServeMetrics(raw, httptest.NewRequest("GET", "/metrics", nil))
	announced := map[string]bool{"router_probe_success": true, "router_probe_failures_total": true} // one for each of ROUTER_PROBE
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (\S+)`).FindAllStringSubmatch(raw.Body.String(), -1) {
		announced[m[1]] = true
	}

	documented := documentedMetrics(t)
	scraped := map[string]family{}
	for name, f := range parseScrape(t, scrape(t, s)) {
		scraped[name] = family{strings.ToLower(f.GetType().String()), labelsOf(f)}
	}
	for _, name := range slices.Sorted(maps.Keys(scraped)) {
		prefix, _, _ := strings.Cut(name, "_")
		want, ok := documented[name]
		if !ok {
			if _, ok := documented[prefix+"_*"]; !ok {
				t.Errorf("docs/metrics.md lacks %s, a %s with the labels %q", name, scraped[name].kind, scraped[name].labels)
			}
			continue
		}
		if got := scraped[name]; got != want {
			t.Errorf("docs/metrics.md documents %s as %v; a scrape has %v", name, want, got)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(documented)) {
		_, there := scraped[name]
		if prefix, many := strings.CutSuffix(name, "*"); many {
			there = slices.ContainsFunc(slices.Collect(maps.Keys(scraped)), func(n string) bool { return strings.HasPrefix(n, prefix) })
		}
		if !there && !announced[name] {
			t.Errorf("docs/metrics.md documents %s, which a scrape lacks", name)
		}
	}
}

// TestBuildInfoNamesTheRouter: alerts and the dashboard can name a router and its service by
// this series, although the address of a task changes with each deployment.
func TestBuildInfoNamesTheRouter(t *testing.T) {
	s := routertest.New(t)
	s.Env["ROUTER_HOSTNAME"] = "edge"
	r := start(t, s, Options{})
	node, _ := r.node.Status()
	series := parseScrape(t, scrape(t, s))["router_build_info"].GetMetric()
	if len(series) != 1 {
		t.Fatalf("%d series: %v", len(series), series)
	}
	got := map[string]string{}
	for _, l := range series[0].GetLabel() {
		got[l.GetName()] = l.GetValue()
	}
	for label, want := range map[string]string{"hostname": "edge", "node": node.Name, "vpc": routertest.World().VPCs[0].ID} {
		if want == "" || got[label] != want {
			t.Errorf("router_build_info has %s=%q, want %q", label, got[label], want)
		}
	}
}

func documentedMetrics(t *testing.T) map[string]family {
	t.Helper()
	text, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]family{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9_]+\\*?)` \\| (\\w*) \\| (.*?) \\| .+ \\|$").FindAllStringSubmatch(string(text), -1) {
		if _, twice := out[m[1]]; twice {
			t.Errorf("docs/metrics.md has %s twice", m[1])
		}
		out[m[1]] = family{m[2], strings.ReplaceAll(m[3], "`", "")}
	}
	if len(out) == 0 {
		t.Fatal("docs/metrics.md has no table of metrics")
	}
	return out
}

func labelsOf(f *dto.MetricFamily) string {
	var names []string
	for _, m := range f.GetMetric() {
		for _, l := range m.GetLabel() {
			if !slices.Contains(names, l.GetName()) {
				names = append(names, l.GetName())
			}
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

func scrape(t *testing.T, s *routertest.Setting) string {
	t.Helper()
	resp, err := scraper.Get(s.URL("/metrics"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("/metrics: HTTP %d, %v: %s", resp.StatusCode, err, body)
	}
	return string(body)
}

func parseScrape(t *testing.T, text string) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	out, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// value returns the value of the series of a family with these label values.
func value(families map[string]*dto.MetricFamily, name string, labels ...string) float64 {
	for _, m := range families[name].GetMetric() {
		var got []string
		for _, l := range m.GetLabel() {
			got = append(got, l.GetValue())
		}
		if slices.Equal(got, labels) {
			return m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return -1
}

// Limits of a scrape, independent of the tailnet's size; measured: 27 KiB and 40 ms with
// 10,000 peers and flows.
const (
	maxScrapeBytes = 64 << 10
	maxScrapeTime  = time.Second // on a machine that runs other tests at the same time
)

// TestMetricsAtScale scrapes a router in a tailnet of 10,000 nodes that have one flow each.
// The numbers of nodes and flows must not add series.
func TestMetricsAtScale(t *testing.T) {
	const many = 10_000
	if limits.MaxOpenFiles() < 2*many {
		skipOrFail(t, "10,000 flows want 20,000 open files: ulimit -n")
	}
	s := routertest.New(t)
	s.Env["ROUTER_MAX_FLOWS"] = "20000"
	sink, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	target := netip.MustParseAddrPort("10.0.3.4:7")
	r := start(t, s, Options{
		Resolve: func(string, netip.AddrPort) (netip.AddrPort, error) {
			return sink.LocalAddr().(*net.UDPAddr).AddrPort(), nil
		},
		DenyDial: func(netip.AddrPort) bool { return false },
	})
	few := series(scrape(t, s))

	peers := s.Control.AddStandIns(many)
	last := peers[many-1]
	testwait.Until(t, "the rules to allow the last peer", func() error {
		if !r.node.AllowsFlow(17, last, target) {
			return errors.New("refused")
		}
		return nil
	})
	for _, peer := range peers {
		r.forward.Deliver([][]byte{datagram(netip.AddrPortFrom(peer, 4000), target)}, 0)
	}
	var text string
	var took []time.Duration
	testwait.Until(t, fmt.Sprintf("%d peers and flows", many), func() error {
		// Scrapes are measured below, and are slow under the race detector.
		_, paths := r.node.Peers(0)
		if flows := r.forward.Active()[forward.UDP]; paths[tailnet.PathIdle] != many || flows != many {
			return fmt.Errorf("%d peers and %d flows", paths[tailnet.PathIdle], flows)
		}
		return nil
	})
	for range 5 {
		start := time.Now()
		text = scrape(t, s)
		took = append(took, time.Since(start))
	}
	families := parseScrape(t, text)
	if peers, flows := value(families, "router_peers", "idle"), value(families, "router_flows_active", "udp"); peers != many || flows != many {
		t.Errorf("a scrape has %v peers and %v flows, want %d", peers, flows, many)
	}
	slices.Sort(took)
	t.Logf("%d series, %d bytes, %v (median of %d)", series(text), len(text), took[len(took)/2].Round(time.Millisecond), len(took))
	if n := series(text); n != few {
		t.Errorf("%d series with %d peers and flows, %d before", n, many, few)
	}
	if len(text) > maxScrapeBytes || took[len(took)/2] > maxScrapeTime {
		t.Errorf("a scrape has %d bytes and takes %v", len(text), took)
	}
	if promtool, err := exec.LookPath("promtool"); err != nil {
		skipOrFail(t, "no promtool: run scripts/tools")
	} else {
		check := exec.Command(promtool, "check", "metrics")
		check.Stdin = strings.NewReader(text)
		if out, err := check.CombinedOutput(); err != nil {
			t.Errorf("promtool check metrics: %v: %s", err, out)
		}
	}
}

// series counts the lines of a scrape that are not comments.
func series(text string) (n int) {
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "#") {
			n++
		}
	}
	return n
}

func skipOrFail(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// datagram returns an IPv4 packet with an empty UDP datagram.
func datagram(from, to netip.AddrPort) []byte {
	p := make([]byte, 28)
	p[0], p[8], p[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	src, dst := from.Addr().As4(), to.Addr().As4()
	copy(p[12:], src[:])
	copy(p[16:], dst[:])
	binary.BigEndian.PutUint16(p[20:], from.Port())
	binary.BigEndian.PutUint16(p[22:], to.Port())
	binary.BigEndian.PutUint16(p[24:], 8)
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum))
	return p
}
