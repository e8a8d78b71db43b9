package router

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"subnetrouter/internal/awstest"
	"subnetrouter/internal/bootstrap/place"
	"subnetrouter/internal/eventlog"
	"subnetrouter/internal/forward"
	"subnetrouter/internal/ops"
	"subnetrouter/internal/routertest"
	"subnetrouter/internal/testwait"

	"github.com/prometheus/client_golang/prometheus"
)

// Limits of the specification and its JSON schema, and of PutMetricData for names and values.
const (
	maxEMFBytes      = 256 << 10 // 1 MB by now
	maxEMFMetrics    = 100
	maxEMFDimensions = 9 // 30 by now
	maxEMFName       = 255
)

var (
	emfUnit = regexp.MustCompile(`^(Seconds|Microseconds|Milliseconds|(Bytes|(Kilo|Mega|Giga|Tera)bytes|Bits|(Kilo|Mega|Giga|Tera)bits|Count)(/Second)?|Percent|None)$`)
	emfText = regexp.MustCompile(`^[!-~]([ -~]*[!-~])?$`)                     // printable ASCII, not only space
	emfSpot = regexp.MustCompile(`^[A-Za-z0-9._/#:-]{1,255}$`)                // a namespace
	emfLine = regexp.MustCompile(`^\{[^\n\r\x00]*"_aws":\{[^\n\r\x00]*\}\n$`) // one line
)

// parsedEMF is a valid document.
type parsedEMF struct {
	at         time.Time
	dimensions map[string]string
	metrics    map[string]float64
	root       map[string]any
}

// parseEMF holds a line to the specification of the embedded metric format.
func parseEMF(line string) (p parsedEMF, err error) {
	if len(line) > maxEMFBytes || !emfLine.MatchString(line) {
		return p, fmt.Errorf("not one line of at most %d bytes: %q", maxEMFBytes, line)
	}
	if err := json.Unmarshal([]byte(line), &p.root); err != nil {
		return p, err
	}
	meta, err := json.Marshal(p.root["_aws"])
	if err != nil {
		return p, err
	}
	var aws struct {
		Timestamp         *int64
		CloudWatchMetrics []struct {
			Namespace  string
			Dimensions [][]string
			Metrics    []struct {
				Name, Unit        string
				StorageResolution *int
			}
		}
	}
	strict := json.NewDecoder(bytes.NewReader(meta))
	strict.DisallowUnknownFields()
	if err := strict.Decode(&aws); err != nil {
		return p, fmt.Errorf("_aws: %w", err)
	}
	if aws.Timestamp == nil || len(aws.CloudWatchMetrics) != 1 {
		return p, fmt.Errorf("_aws has no Timestamp, or not one directive: %s", meta)
	}
	p.at = time.UnixMilli(*aws.Timestamp)
	d := aws.CloudWatchMetrics[0]
	if !emfSpot.MatchString(d.Namespace) || strings.HasPrefix(d.Namespace, "AWS/") {
		return p, fmt.Errorf("namespace %q", d.Namespace)
	}
	if len(d.Dimensions) != 1 || len(d.Dimensions[0]) == 0 || len(d.Dimensions[0]) > maxEMFDimensions {
		return p, fmt.Errorf("dimensions %q", d.Dimensions) // more than one set costs as often
	}
	p.dimensions = map[string]string{}
	for _, name := range d.Dimensions[0] {
		value, ok := p.root[name].(string)
		if !ok || !emfText.MatchString(value) || len(value) > 1024 || !emfText.MatchString(name) || len(name) > maxEMFName || name[0] == ':' {
			return p, fmt.Errorf("dimension %q is %v", name, p.root[name])
		}
		p.dimensions[name] = value
	}
	if len(d.Metrics) == 0 || len(d.Metrics) > maxEMFMetrics {
		return p, fmt.Errorf("%d metrics", len(d.Metrics))
	}
	p.metrics = map[string]float64{}
	for _, m := range d.Metrics {
		value, ok := p.root[m.Name].(float64)
		if _, twice := p.metrics[m.Name]; !ok || twice || !emfText.MatchString(m.Name) || len(m.Name) > maxEMFName || !emfUnit.MatchString(m.Unit) {
			return p, fmt.Errorf("metric %+v is %v", m, p.root[m.Name])
		}
		if r := m.StorageResolution; r != nil && *r != 1 && *r != 60 {
			return p, fmt.Errorf("metric %s has the resolution %d", m.Name, *r)
		}
		p.metrics[m.Name] = value
	}
	return p, nil
}

// TestParseEMF: the validator accepts AWS's example, and finds violations.
func TestParseEMF(t *testing.T) {
	example := `{"_aws":{"Timestamp":1574109732004,"CloudWatchMetrics":[{"Namespace":"lambda-function-metrics","Dimensions":[["functionVersion"]],` +
		`"Metrics":[{"Name":"time","Unit":"Milliseconds"}]}]},"functionVersion":"$LATEST","time":100,"requestId":"989ffbf8"}` + "\n"
	p, err := parseEMF(example)
	if err != nil || p.metrics["time"] != 100 || p.dimensions["functionVersion"] != "$LATEST" || p.at.UnixMilli() != 1574109732004 {
		t.Errorf("%+v, %v", p, err)
	}
	for _, change := range [][2]string{
		{"\n", ""}, {"{", "x {"}, {`"time":100`, `"time":"100"`}, {`"$LATEST"`, `7`}, {`"$LATEST"`, `"é"`}, {`"$LATEST"`, `" "`}, {"Milliseconds", "Millis"},
		{`"Timestamp":1574109732004,`, ""}, {"1574109732004", "1.5"}, {`["functionVersion"]`, ""}, {`["functionVersion"]`, `[]`}, {`"functionVersion":"$LATEST",`, ""},
		{`"Unit"`, `"StorageResolution":30,"Unit"`}, {`"Unit"`, `"Factor":1,"Unit"`}, {"lambda-function", "AWS/lambda"}, {`"requestId"`, "\n\"requestId\""},
	} {
		if p, err := parseEMF(strings.Replace(example, change[0], change[1], 1)); err == nil {
			t.Errorf("with %q for %q it is valid: %+v", change[1], change[0], p)
		}
	}
}

// TestEMFOfARouter: the lines have the figures of the real router's registry, and the service
// of its task.
func TestEMFOfARouter(t *testing.T) {
	s := routertest.New(t)
	s.Env["ROUTER_EMF"], s.Env["ROUTER_HOSTNAME"] = "on", "edge"
	s.Metadata.Update(func(task *awstest.Task) { task.Service = "router" })
	sink, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	r := start(t, s, Options{
		Version: ops.Version{Router: "v1.2.3"},
		Resolve: func(string, netip.AddrPort) (netip.AddrPort, error) {
			return sink.LocalAddr().(*net.UDPAddr).AddrPort(), nil
		},
		DenyDial: func(netip.AddrPort) bool { return false },
	})
	var out bytes.Buffer
	r.emf.out = &out
	line := func() parsedEMF {
		t.Helper()
		out.Reset()
		if err := r.emf.write(time.Now()); err != nil {
			t.Fatal(err)
		}
		p, err := parseEMF(out.String())
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	peer, target := s.Control.AddStandIns(1)[0], netip.MustParseAddrPort("10.0.3.4:7")
	testwait.Until(t, "the rules to allow the peer", func() error {
		if !r.node.AllowsFlow(17, peer, target) {
			return errors.New("refused")
		}
		return nil
	})
	r.forward.Deliver([][]byte{datagram(netip.AddrPortFrom(peer, 4000), target)}, 0)
	testwait.Until(t, "the flow", func() error {
		if n := r.forward.Active()[forward.UDP]; n != 1 {
			return fmt.Errorf("%d flows", n)
		}
		return nil
	})
	first := line()
	if len(first.metrics) != len(emfMetrics) {
		t.Errorf("the line has the metrics %v", first.metrics)
	}
	for name, want := range map[string]float64{"OpenFlowsUDP": 1, "OpenFlowsTCP": 0, "NewFlows": 1, "RefusedFlows": 0, "Ready": 1} {
		if first.metrics[name] != want {
			t.Errorf("%s is %v, want %v", name, first.metrics[name], want)
		}
	}
	if want := map[string]string{"ClusterName": first.root["ClusterName"].(string), "ServiceName": "router"}; !reflect.DeepEqual(first.dimensions, want) {
		t.Errorf("dimensions %v, want %v", first.dimensions, want)
	}
	for name, want := range map[string]string{"Hostname": "edge", "Version": "v1.2.3"} {
		if first.root[name] != want {
			t.Errorf("%s is %v, want %q", name, first.root[name], want)
		}
	}
	if arn, _ := first.root["TaskArn"].(string); !strings.HasPrefix(arn, "arn:aws:ecs:") {
		t.Errorf("the task's ARN is %q", arn)
	}
	t.Logf("a line has %d bytes: %s", out.Len(), &out)
	if next := line(); next.metrics["NewFlows"] != 0 || next.metrics["OpenFlowsUDP"] != 1 {
		t.Errorf("the next line counts the flow again: %v", next.metrics)
	}
}

// TestEMFMetricsExist: each selector finds series, so that a renamed label does not turn a
// metric into a constant 0.
func TestEMFMetricsExist(t *testing.T) {
	s := routertest.New(t)
	s.Env["ROUTER_DNS"] = "on"
	t.Setenv("AWS_REGION", "eu-west-1")
	r, err := New(s.Load(t), Options{}, slog.New(slog.DiscardHandler), eventlog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	if !r.newEMF().dns {
		t.Error("the lines are without the metrics of DNS")
	}
	families, err := r.Metrics().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range slices.Concat(emfMetrics, emfDNSMetrics) {
		for _, value := range append(m.values, "") {
			if value == "" && len(m.values) > 0 {
				continue
			}
			found := false
			for _, f := range families {
				for _, series := range f.GetMetric() {
					matches := value == ""
					for _, l := range series.GetLabel() {
						matches = matches || l.GetName() == m.label && l.GetValue() == value
					}
					found = found || f.GetName() == m.family && matches
				}
			}
			if !found {
				t.Errorf("%s: no series of %s has %s=%q", m.name, m.family, m.label, value)
			}
		}
	}
}

// TestEMFIsDocumented compares the table of docs/metrics.md with the metrics of a line.
func TestEMFIsDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented, want []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Z]\\w+)` \\| (\\w+) \\| .+ \\| `(\\w+)` \\|$").FindAllStringSubmatch(string(text), -1) {
		documented = append(documented, strings.Join(m[1:], " "))
	}
	for _, m := range slices.Concat(emfMetrics, emfDNSMetrics) {
		want = append(want, m.name+" "+m.unit+" "+m.family)
	}
	if !slices.Equal(documented, want) {
		t.Errorf("docs/metrics.md has\n%q\na line has\n%q", documented, want)
	}
	for _, figure := range []string{fmt.Sprintf("%d metrics and", len(emfMetrics)), fmt.Sprintf("are %.2f a month", 0.3*float64(len(emfMetrics))),
		fmt.Sprintf("The two of DNS add %.2f a month", 0.3*float64(len(emfDNSMetrics)))} {
		if !strings.Contains(strings.Join(strings.Fields(string(text)), " "), figure) {
			t.Errorf("docs/metrics.md does not have the cost of %d metrics: %q", len(emfMetrics), figure)
		}
	}
}

// emfRegistry has a series for each metric; those of counters have the value of opened.
func emfRegistry() (reg *prometheus.Registry, open prometheus.Gauge, opened prometheus.Counter) {
	reg = prometheus.NewRegistry()
	families := map[string]bool{}
	open = prometheus.NewGauge(prometheus.GaugeOpts{Name: "router_flows_active", Help: "x", ConstLabels: prometheus.Labels{"protocol": "tcp"}})
	opened = prometheus.NewCounter(prometheus.CounterOpts{Name: "router_flows_opened_total", Help: "x", ConstLabels: prometheus.Labels{"protocol": "udp"}})
	reg.MustRegister(open, opened)
	families["router_flows_active"], families["router_flows_opened_total"] = true, true
	for _, m := range emfMetrics {
		if !families[m.family] {
			families[m.family] = true
			reg.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: m.family}))
		}
	}
	return reg, open, opened
}

func knownIdentity() (emfIdentity, bool) {
	return emfIdentity{dimensions: []emfMember{{"ClusterName", "c"}, {"ServiceName", "s"}}}, true
}

// TestEMFIntervals: a line has the counts since the last one, once a minute and at the end;
// the first one those since the start, also if it is late because the task is unknown.
func TestEMFIntervals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg, open, opened := emfRegistry()
		var out bytes.Buffer
		var known atomic.Bool
		begin := time.Now()
		e := &emf{gatherer: reg, out: &out, log: slog.New(slog.DiscardHandler), identity: func() (emfIdentity, bool) {
			id, _ := knownIdentity()
			return id, known.Load()
		}}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- e.run(ctx) }()
		expect := func(after time.Duration, flows, count float64) {
			t.Helper()
			synctest.Wait()
			p, err := parseEMF(out.String())
			if err != nil {
				t.Fatal(err)
			}
			if p.metrics["OpenFlowsTCP"] != flows || p.metrics["NewFlows"] != count || !p.at.Equal(begin.Add(after)) {
				t.Errorf("after %v: %v at %v, want %v open and %v new flows", after, p.metrics, p.at.Sub(begin), flows, count)
			}
			out.Reset()
		}
		opened.Add(5)
		time.Sleep(emfEvery + time.Second)
		synctest.Wait()
		if out.Len() > 0 {
			t.Errorf("a line of an unknown task: %s", &out)
		}
		known.Store(true)
		open.Set(3)
		opened.Add(2)
		time.Sleep(emfEvery)
		expect(2*emfEvery, 3, 7)
		open.Set(1)
		time.Sleep(emfEvery)
		expect(3*emfEvery, 1, 0)
		opened.Add(1 << 40)
		time.Sleep(10 * time.Second)
		stop()
		expect(3*emfEvery+11*time.Second, 1, 1<<40)
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// blockedOutput does not take anything until it is opened.
type blockedOutput struct {
	open chan struct{}
	b    bytes.Buffer
}

func (o *blockedOutput) Write(p []byte) (int, error) {
	<-o.open
	return o.b.Write(p)
}

// TestEMFOfABlockedOutput: lines are written without waiting, their counts are neither lost nor
// counted twice, and they are whole lines between those of the log.
func TestEMFOfABlockedOutput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg, _, opened := emfRegistry()
		out := &blockedOutput{open: make(chan struct{})}
		queue := eventlog.NewQueue(out, func(uint64) {}) // the log's own
		log := slog.New(slog.NewTextHandler(queue, nil))
		e := &emf{gatherer: reg, out: queue, log: log, identity: knownIdentity}
		log.Info("before")
		begin := time.Now()
		write := func() error {
			opened.Inc()
			return e.write(time.Now())
		}
		if err := write(); err != nil {
			t.Fatal(err)
		}
		for queue.Dropped() == 0 { // until the queue is full
			e.out.Write([]byte("filler\n"))
		}
		for range 3 {
			if err := write(); !errors.Is(err, eventlog.ErrDropped) {
				t.Errorf("a line to a full queue: %v", err)
			}
		}
		if time.Since(begin) != 0 {
			t.Errorf("writing waited %v", time.Since(begin))
		}
		close(out.open)
		queue.Flush(time.Hour)
		if err := write(); err != nil {
			t.Fatal(err)
		}
		queue.Flush(time.Hour)
		synctest.Wait()
		lines, sum := 0, 0.0
		for line := range strings.Lines(out.b.String()) {
			if strings.HasPrefix(line, "{") {
				p, err := parseEMF(line)
				if err != nil {
					t.Error(err)
				}
				lines++
				sum += p.metrics["NewFlows"]
			} else if !strings.HasPrefix(line, "time=") && line != "filler\n" {
				t.Errorf("a mixed line: %.80s", line)
			}
		}
		if lines != 2 || sum != 5 {
			t.Errorf("%d lines with %v new flows, want 2 with 5", lines, sum)
		}
		queue.Close(time.Hour)
	})
}

// TestEMFFails: a metric that the registry lacks is an error, and no line.
func TestEMFFails(t *testing.T) {
	var out bytes.Buffer
	e := &emf{gatherer: prometheus.NewRegistry(), out: &out, identity: knownIdentity}
	if err := e.write(time.Now()); err == nil || !strings.Contains(err.Error(), "router_flows_active") || out.Len() > 0 {
		t.Errorf("%v, %q", err, &out)
	}
}

func TestDescribeEMF(t *testing.T) {
	at := func(cluster, service, family string) place.Place {
		return place.Place{Cluster: cluster, Service: service, Family: family, ARN: "arn:aws:ecs:eu-west-1:123456789012:task/c/1"}
	}
	for _, tc := range []struct {
		name  string
		place place.Place
		onECS bool
		host  string
		want  []emfMember // nil: unknown
	}{
		{"Fargate", at("arn:aws:ecs:eu-west-1:123456789012:cluster/network", "router", "fam"), true, "edge", []emfMember{{"ClusterName", "network"}, {"ServiceName", "router"}}},
		{"EC2", at("network", "router", "fam"), true, "", []emfMember{{"ClusterName", "network"}, {"ServiceName", "router"}}},
		{"no service", at("network", "", "fam"), true, "edge", []emfMember{{"ClusterName", "network"}, {"TaskDefinitionFamily", "fam"}}},
		{"not read yet", place.Place{}, true, "edge", nil},
		{"a cluster without a name", at("arn:aws:ecs:eu-west-1:123456789012:cluster/", "router", "fam"), true, "edge", nil},
		{"a hostile service", at("network", "a\nb", "fam"), true, "edge", nil},
		{"a long service", at("network", strings.Repeat("x", 256), "fam"), true, "edge", nil},
		{"outside ECS", place.Place{}, false, "edge", []emfMember{{"Hostname", "edge"}}},
		{"outside ECS, before joining", place.Place{}, false, "", nil},
	} {
		id, known := describeEMF(tc.place, tc.onECS, tc.host, "v1")
		if known != (tc.want != nil) || known && !reflect.DeepEqual(id.dimensions, tc.want) {
			t.Errorf("%s: %v, %v, want %v", tc.name, id.dimensions, known, tc.want)
		}
	}
	hostile := at("network", "router", "fam")
	hostile.ARN = routertest.Key + "\n\x00" + strings.Repeat("x", 1<<20)
	id, _ := describeEMF(hostile, true, "edge", "v1")
	for _, p := range id.properties {
		if len(p.value) > maxEMFProperty || strings.Contains(p.value, routertest.Key) || strings.ContainsAny(p.value, "\n\x00") {
			t.Errorf("%s is %.80q, of %d bytes", p.name, p.value, len(p.value))
		}
	}
}
