package dns

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// gather returns the value of each series; of a histogram, the number of observations.
func gather(t *testing.T, reg prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetName() + "=" + l.GetValue()
			}
			switch f.GetType() {
			case dto.MetricType_COUNTER:
				out[name] = m.GetCounter().GetValue()
			case dto.MetricType_GAUGE:
				out[name] = m.GetGauge().GetValue()
			default:
				out[name] = float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return out
}

// changed returns the series that differ, in order, with the differences.
func changed(before, after map[string]float64) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(after)) {
		if d := after[name] - before[name]; d != 0 {
			out = append(out, fmt.Sprintf("%s %+g", strings.TrimPrefix(name, "router_dns_"), d))
		}
	}
	return out
}

// TestMetrics: the counters that each kind of query changes. The cache's gauges have a test of their own.
func TestMetrics(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := prometheus.NewPedanticRegistry()
		r := &resolver{respond: records(www, soa)}
		s := start(t, r, func(cfg *Config) { cfg.Registerer = reg })
		if err := s.SetZones([]string{"example.com"}); err != nil {
			t.Fatal(err)
		}
		for _, step := range []struct {
			what string
			do   func()
			want []string
		}{
			{"a miss", func() { ask(t, s, alice, "www.example.com", "A") },
				[]string{"queries_total result=miss transport=udp +1", "upstream_duration_seconds +1", "upstream_packets_total +1", "zone_queries_total zone=example.com +1", "zone_upstream_duration_seconds zone=example.com +1"}},
			{"a hit", func() { s.Serve(t.Context(), alice, true, pack(newQuery("www.example.com", "A"))) },
				[]string{"queries_total result=hit transport=tcp +1", "zone_hits_total zone=example.com +1", "zone_queries_total zone=example.com +1"}},
			{"another zone", func() { ask(t, s, alice, "www.example.org", "A") },
				[]string{"queries_total result=miss transport=udp +1", "upstream_duration_seconds +1", "upstream_packets_total +1", "zone_queries_total zone=other +1", "zone_upstream_duration_seconds zone=other +1"}},
			{"no query", func() { s.Serve(t.Context(), alice, false, []byte("no query at all")) },
				[]string{"queries_total result=invalid transport=udp +1"}},
			{"a refused query", func() { ask(t, s, alice, "www.example.com", "AXFR") },
				[]string{"queries_total result=refused transport=udp +1"}},
			{"two at once", func() {
				r.set(after(time.Millisecond, records(www, soa)))
				done := make(chan []byte, 2)
				for range 2 {
					s.Handle(alice, false, pack(newQuery("www.example.com", "TXT")), func(b []byte) { done <- b })
				}
				<-done
				<-done
			}, []string{"queries_total result=coalesced transport=udp +1", "queries_total result=miss transport=udp +1", "upstream_duration_seconds +1", "upstream_packets_total +1", "zone_queries_total zone=example.com +2", "zone_upstream_duration_seconds zone=example.com +1"}},
			{"a stale answer", func() {
				time.Sleep(2 * time.Minute)
				r.set(rcode(dns.RcodeServerFailure))
				ask(t, s, alice, "www.example.com", "A")
			}, []string{"queries_total result=stale transport=udp +1", "upstream_failures_total cause=rcode +1", "upstream_packets_total +1", "zone_queries_total zone=example.com +1", "zone_upstream_duration_seconds zone=example.com +1"}},
			{"a failure", func() {
				r.set(silent)
				ask(t, s, alice, "silent.example.com", "A")
			}, []string{"queries_total result=failed transport=udp +1", "upstream_failures_total cause=timeout +1", "upstream_packets_total +9", "zone_failures_total zone=example.com +1", "zone_queries_total zone=example.com +1", "zone_upstream_duration_seconds zone=example.com +1"}},
			{"a refused connection", func() {
				r.setRefuse(true)
				ask(t, s, alice, "refused.example.com", "A")
				r.setRefuse(false)
			}, []string{"queries_total result=failed transport=udp +1", "upstream_failures_total cause=unreachable +1", "zone_failures_total zone=example.com +1", "zone_queries_total zone=example.com +1", "zone_upstream_duration_seconds zone=example.com +1"}},
			{"a forged answer", func() {
				r.set(func(_ string, q *dns.Msg) []response {
					good := pack(lookUp(q, []string{www, soa}))
					q.Id++
					return []response{{msg: pack(lookUp(q, []string{www, soa}))}, {msg: good}}
				})
				ask(t, s, alice, "forged.example.com", "A")
			}, []string{"queries_total result=miss transport=udp +1", "upstream_duration_seconds +1", "upstream_invalid_answers_total +1", "upstream_packets_total +1", "zone_queries_total zone=example.com +1", "zone_upstream_duration_seconds zone=example.com +1"}},
		} {
			before := gather(t, reg)
			step.do()
			synctest.Wait()
			got := slices.DeleteFunc(changed(before, gather(t, reg)), func(line string) bool {
				return strings.HasPrefix(line, "cache_") || strings.Contains(line, "per_second")
			})
			if !slices.Equal(got, step.want) {
				t.Errorf("%s changed\n\t%s\nwant\n\t%s", step.what, strings.Join(got, "\n\t"), strings.Join(step.want, "\n\t"))
			}
		}
	})
}

// TestGauges: the size of the cache, the queries that wait and the rate of packets.
func TestGauges(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := prometheus.NewPedanticRegistry()
		r := &resolver{respond: records(`*.example.com. 60 IN A 10.0.0.1`)}
		s := start(t, r, func(cfg *Config) { cfg.Registerer = reg })
		for i := range 30 {
			ask(t, s, alice, fmt.Sprintf("n%d.example.com", i), "A")
		}
		time.Sleep(time.Second)
		got := gather(t, reg)
		if n := got["router_dns_cache_entries"]; n != 30 {
			t.Errorf("the cache has %g entries", n)
		}
		if n := got["router_dns_cache_bytes"]; n < 30*400 || n > 30*1000 {
			t.Errorf("the cache has %g bytes", n)
		}
		if n := got["router_dns_upstream_packets_per_second"]; n != 30 {
			t.Errorf("%g packets were sent in the last second", n)
		}
		time.Sleep(time.Second)
		r.set(silent)
		s.Handle(alice, false, pack(newQuery("www.example.org", "A")), func([]byte) {})
		got = gather(t, reg)
		if n := got["router_dns_upstream_packets_per_second"]; n != 0 {
			t.Errorf("%g packets were sent in the last second", n)
		}
		if n := got["router_dns_waiting_queries"]; n != 1 {
			t.Errorf("%g queries wait", n)
		}
	})
}

// TestZoneMetrics: zones have series as long as they are set, and a bounded number of them.
func TestZoneMetrics(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := prometheus.NewPedanticRegistry()
		s := start(t, &resolver{respond: records(soa)}, func(cfg *Config) { cfg.Registerer = reg })
		set := func(names ...string) []string {
			t.Helper()
			if err := s.SetZones(names); err != nil {
				t.Fatal(err)
			}
			var out []string
			for name := range gather(t, reg) {
				if zone, ok := strings.CutPrefix(name, "router_dns_zone_queries_total zone="); ok {
					out = append(out, zone)
				}
			}
			slices.Sort(out)
			return out
		}
		if got := set("b.example", "a.example"); !slices.Equal(got, []string{"a.example", "b.example", "other"}) {
			t.Errorf("the zones are %q", got)
		}
		ask(t, s, alice, "x.a.example", "A")
		if got := set("a.example"); !slices.Equal(got, []string{"a.example", "other"}) || gather(t, reg)["router_dns_zone_queries_total zone=a.example"] != 1 {
			t.Errorf("the zones are %q", got)
		}
		many := make([]string, 3*maxZones)
		for i := range many {
			many[i] = fmt.Sprintf("z%d.example", i)
		}
		if got := set(many...); len(got) != maxZones+1 {
			t.Errorf("%d zones have metrics", len(got))
		}
		if got := set(); !slices.Equal(got, []string{"other"}) {
			t.Errorf("the zones are %q", got)
		}
	})
}

// TestMetricsAreDocumented compares docs/metrics.md with the metrics: names, types and labels.
func TestMetricsAreDocumented(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	start(t, &resolver{respond: silent}, func(cfg *Config) { cfg.Registerer = reg })
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, f := range families {
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		want = append(want, fmt.Sprintf("%s %s %s", f.GetName(), strings.ToLower(f.GetType().String()), strings.Join(labels, ", ")))
	}
	text, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(router_dns_\\w+)` \\| (\\w+) \\| (.*?) \\| .+ \\|$").FindAllStringSubmatch(string(text), -1) {
		if !strings.HasPrefix(m[1], "router_dns_regist") { // the tailnet's split DNS, of package router
			got = append(got, strings.Join(m[1:], " "))
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("docs/metrics.md has\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}
