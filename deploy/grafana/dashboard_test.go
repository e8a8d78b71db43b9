// Package grafana checks the dashboard for faults that a valid JSON file can still have.
package grafana

import (
	"encoding/json"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

type panel struct {
	Title, Type, Description string
	FieldConfig              struct {
		Defaults struct {
			Color struct {
				Mode, FixedColor string
			}
			Thresholds struct {
				Mode  string
				Steps []struct {
					Color string
					Value *float64 // nil: from minus infinity
				}
			}
			Mappings []struct {
				Type    string
				Options json.RawMessage
			}
		}
	}
	Targets []struct {
		Expr, Format string
		Instant      bool
	}
	Transformations []struct{ ID string }
}

func panels(t *testing.T) []panel {
	t.Helper()
	text, err := os.ReadFile("subnetrouter.json")
	if err != nil {
		t.Fatal(err)
	}
	var d struct{ Panels []panel }
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	return d.Panels
}

// color returns the color in which Grafana shows a value: that of a value mapping, else of the
// last threshold that it reaches. Without thresholds Grafana's own apply: green, red from 80.
func (p panel) color(t *testing.T, value float64) string {
	t.Helper()
	d := p.FieldConfig.Defaults
	if d.Color.Mode == "fixed" {
		return d.Color.FixedColor
	}
	for _, m := range d.Mappings {
		if m.Type != "value" {
			continue
		}
		var to map[string]struct{ Color string }
		if err := json.Unmarshal(m.Options, &to); err != nil {
			t.Fatalf("%s: %v", p.Title, err)
		}
		if found, ok := to[strconv.FormatFloat(value, 'f', -1, 64)]; ok && found.Color != "" {
			return found.Color
		}
	}
	if len(d.Thresholds.Steps) == 0 {
		if value >= 80 {
			return "red"
		}
		return "green"
	}
	color := ""
	for _, s := range d.Thresholds.Steps {
		if s.Value == nil || value >= *s.Value {
			color = s.Color
		}
	}
	return color
}

// TestColors: red means bad and green means good in each panel that shows one value or state.
func TestColors(t *testing.T) {
	want := map[string]map[float64]string{
		"Routers not ready":            {0: "green", 1: "red", 5: "red"},
		"Routers":                      {0: "red", 1: "orange", 2: "green", 100: "green"},
		"Routes without a primary":     {0: "green", 1: "red", 100: "red"},
		"Routes awaiting approval":     {0: "green", 1: "orange", 100: "orange"},
		"Flows open":                   {0: "text", 294: "text", 100_000: "text"},
		"DERP share":                   {0: "green", 0.05: "green", 0.2: "orange", 0.9: "red"},
		"Ready":                        {0: "red", 1: "green"},
		"Draining, held back, overdue": {0: "green", 1: "orange"},
		"Probes":                       {0: "red", 1: "green"},
	}
	seen := map[string]bool{}
	for _, p := range panels(t) {
		if p.Type != "stat" && p.Type != "state-timeline" {
			continue
		}
		seen[p.Title] = true
		if len(want[p.Title]) == 0 {
			t.Errorf("%s: no colors are known for this panel", p.Title)
		}
		for value, color := range want[p.Title] {
			if got := p.color(t, value); got != color {
				t.Errorf("%s: %v is %s, want %s", p.Title, value, got, color)
			}
		}
		steps := p.FieldConfig.Defaults.Thresholds.Steps
		if !slices.IsSortedFunc(steps, func(a, b struct {
			Color string
			Value *float64
		}) int {
			switch {
			case a.Value == nil:
				return -1
			case b.Value == nil:
				return 1
			case *a.Value < *b.Value:
				return -1
			}
			return 1
		}) {
			t.Errorf("%s: Grafana wants thresholds in ascending order", p.Title)
		}
	}
	for title := range want {
		if !seen[title] {
			t.Errorf("no panel %q with colors", title)
		}
	}
}

// TestTables: Grafana shows labels as columns only for an instant query in table format.
func TestTables(t *testing.T) {
	tables := 0
	for _, p := range panels(t) {
		if p.Type != "table" {
			continue
		}
		tables++
		for _, target := range p.Targets {
			if target.Format != "table" || !target.Instant {
				t.Errorf("%s: format %q, instant %v", p.Title, target.Format, target.Instant)
			}
		}
		if len(p.Transformations) == 0 || p.Transformations[0].ID != "organize" {
			t.Errorf("%s: shows Prometheus's own columns: %v", p.Title, p.Transformations)
		}
	}
	if tables == 0 {
		t.Error("no table")
	}
}

// TestRoutersWithTheSameAddress: a query that matches series by instance needs the cluster too,
// since routers of VPCs with the same addresses have the same instances.
func TestRoutersWithTheSameAddress(t *testing.T) {
	for _, p := range panels(t) {
		for _, target := range p.Targets {
			for _, part := range strings.Split(target.Expr, "on (")[1:] {
				if labels, _, _ := strings.Cut(part, ")"); !strings.Contains(labels, "cluster") {
					t.Errorf("%s matches series by %q", p.Title, labels)
				}
			}
		}
	}
}
