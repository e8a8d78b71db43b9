package router

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"time"

	"subnetrouter/internal/bootstrap/place"
	"subnetrouter/internal/secret"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// The specification of the format is
// https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html.
// A metric without StorageResolution has CloudWatch's standard resolution of one minute.
const (
	emfNamespace = "subnetrouter"
	emfEvery     = time.Minute
	// maxEMFProperty bounds the properties of a line, in bytes.
	maxEMFProperty = 300
)

// emfMetric is a metric at CloudWatch: the sum of the series of a family that have one of
// the values of a label. Each one costs its users money, by the month.
type emfMetric struct {
	name, unit    string
	family, label string
	values        []string // none: the sum of all series
}

// emfMetrics lists the metrics of each line. A gauge is its value at the time of the line; a
// counter its growth since the last line, or since the start.
var emfMetrics = []emfMetric{
	{"OpenFlowsTCP", "Count", "router_flows_active", "protocol", []string{"tcp"}},
	{"OpenFlowsUDP", "Count", "router_flows_active", "protocol", []string{"udp"}},
	{"NewFlows", "Count", "router_flows_opened_total", "protocol", []string{"tcp", "udp"}},
	{"RefusedFlows", "Count", "router_flow_failures_total", "reason", []string{"limit"}},
	{"BytesToClients", "Bytes", "router_forwarded_bytes_total", "direction", []string{"to_tailnet"}},
	{"BytesFromClients", "Bytes", "router_forwarded_bytes_total", "direction", []string{"to_vpc"}},
	{"DroppedPackets", "Count", "router_dropped_packets_total", "", nil},
	{"Ready", "Count", "router_ready", "", nil},
}

// emfDNSMetrics are further metrics of a router that answers DNS.
var emfDNSMetrics = []emfMetric{
	{"DNSQueries", "Count", "router_dns_queries_total", "", nil},
	{"DNSFailures", "Count", "router_dns_queries_total", "result", []string{"failed"}},
}

// read returns the sum of the metric's series, and whether it is a counter.
func (m emfMetric) read(families []*dto.MetricFamily) (sum float64, counter bool, err error) {
	i := slices.IndexFunc(families, func(f *dto.MetricFamily) bool { return f.GetName() == m.family })
	if i < 0 {
		return 0, false, fmt.Errorf("the registry has no metric %s", m.family)
	}
	for _, series := range families[i].GetMetric() {
		if len(m.values) == 0 || slices.ContainsFunc(series.GetLabel(), func(l *dto.LabelPair) bool {
			return l.GetName() == m.label && slices.Contains(m.values, l.GetValue())
		}) {
			sum += series.GetGauge().GetValue() + series.GetCounter().GetValue()
		}
	}
	return sum, families[i].GetType() == dto.MetricType_COUNTER, nil
}

// emfIdentity holds the other members of a line. The dimensions are a part of each
// metric's identity: with one that differs between tasks, such as the task's ARN, each task
// would have metrics of its own, which nothing could scale or alarm on, and which cost more.
// The properties are for people who read the log.
type emfIdentity struct {
	dimensions []emfMember
	properties []emfMember
}

type emfMember struct{ name, value string }

// emf writes the load figures of /metrics as CloudWatch embedded metric format: one JSON
// object a line, of which CloudWatch Logs makes metrics. Only run uses it.
type emf struct {
	gatherer prometheus.Gatherer
	dns      bool      // the router answers DNS
	out      io.Writer // does not block
	log      *slog.Logger
	// identity returns false while it is unknown. The next line then has the counts so far.
	identity func() (emfIdentity, bool)
	written  map[string]float64 // the counters at the last line, by the metric's name
}

// run writes a line every minute, and the last one when ctx ends: a task that lives for less
// than a minute would otherwise have no figures.
func (e *emf) run(ctx context.Context) error {
	tick := time.NewTicker(emfEvery)
	defer tick.Stop()
	for {
		last := false
		select {
		case <-tick.C:
		case <-ctx.Done():
			last = true
		}
		if err := e.write(time.Now()); err != nil {
			e.log.Warn("writing an embedded metric line failed; the next line has its counts", "err", err)
		}
		if last {
			return nil
		}
	}
}

// write writes one line. The counts of a line that fails are those of the next one.
func (e *emf) write(now time.Time) error {
	id, known := e.identity()
	if !known {
		return nil
	}
	families, err := e.gatherer.Gather()
	if err != nil {
		return fmt.Errorf("gathering metrics: %w", err)
	}
	type definition struct{ Name, Unit string }
	var definitions []definition
	line, totals := map[string]any{}, map[string]float64{}
	metrics := emfMetrics
	if e.dns {
		metrics = slices.Concat(emfMetrics, emfDNSMetrics)
	}
	for _, m := range metrics {
		value, counter, err := m.read(families)
		if err != nil {
			return err
		}
		if counter {
			totals[m.name] = value
			value -= e.written[m.name]
		}
		line[m.name] = value
		definitions = append(definitions, definition{m.name, m.unit})
	}
	var dimensions []string
	for _, d := range id.dimensions {
		line[d.name] = d.value
		dimensions = append(dimensions, d.name)
	}
	for _, p := range id.properties {
		line[p.name] = p.value
	}
	line["_aws"] = map[string]any{
		"Timestamp": now.UnixMilli(),
		"CloudWatchMetrics": []map[string]any{{
			"Namespace": emfNamespace, "Dimensions": [][]string{dimensions}, "Metrics": definitions,
		}},
	}
	text, err := json.Marshal(line)
	if err != nil {
		return fmt.Errorf("encoding: %w", err)
	}
	if _, err := e.out.Write(append(text, '\n')); err != nil {
		return err
	}
	e.written = totals
	return nil
}

// newEMF returns the writer of this router's lines.
func (r *Router) newEMF() *emf {
	return &emf{gatherer: r.registry, dns: r.cfg.DNS, out: r.events.Lines(), log: r.log, identity: func() (emfIdentity, bool) {
		place, _, _, _ := r.lookUps.results()
		hostname, _ := r.hostname.Load().(string)
		return describeEMF(place, r.cfg.MetadataURI != "", hostname, r.opts.Version.Router)
	}}
}

// ecsName matches the names that ECS gives to clusters, services and families. Others cannot
// be dimensions.
var ecsName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,255}$`)

// describeEMF returns the identity of the lines: of the service on ECS, with the names of
// dimensions that ECS's own metrics have; of the family if no service started the task; of the
// node outside ECS. It is unknown until task metadata is read, or the hostname chosen.
func describeEMF(p place.Place, onECS bool, hostname, version string) (id emfIdentity, known bool) {
	cluster := p.Cluster[strings.LastIndex(p.Cluster, "/")+1:] // of an ARN
	for _, d := range []emfMember{{"ClusterName", cluster}, {"ServiceName", p.Service}, {"TaskDefinitionFamily", p.Family}} {
		if ecsName.MatchString(d.value) && (d.name != "TaskDefinitionFamily" || p.Service == "") {
			id.dimensions = append(id.dimensions, d)
		}
	}
	if !onECS && hostname != "" {
		id.dimensions = []emfMember{{"Hostname", hostname}}
	}
	for _, member := range []emfMember{{"TaskArn", p.ARN}, {"Hostname", hostname}, {"Version", version}} {
		if member.value != "" {
			member.value = secret.Clean(member.value, maxEMFProperty)
			id.properties = append(id.properties, member)
		}
	}
	// Two on ECS: metrics of a cluster would mix services.
	return id, len(id.dimensions) == 2 || !onECS && len(id.dimensions) == 1
}
