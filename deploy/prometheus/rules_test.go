// Package prometheus checks the alert rules with promtool.
package prometheus

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v2"
)

type rules struct {
	Groups []struct {
		Rules []struct {
			Alert, Record, Expr string
			Labels              map[string]string
			Annotations         map[string]string
		}
	}
}

type cases struct {
	Tests []struct {
		Checks []struct {
			At       string `yaml:"eval_time"`
			Alert    string `yaml:"alertname"`
			Expected []any  `yaml:"exp_alerts"`
		} `yaml:"alert_rule_test"`
	}
}

func read(t *testing.T, file string, into any) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if into != nil {
		if err := yaml.Unmarshal(text, into); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
	}
	return string(text)
}

// TestRules runs promtool on the rules, their cases and the example configuration.
func TestRules(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("no promtool: run scripts/tools")
		}
		t.Skip("no promtool: run scripts/tools")
	}
	for _, args := range [][]string{
		{"check", "rules", "--lint=all", "--lint-fatal", "subnetrouter.rules.yml"},
		{"check", "config", "prometheus.yml"},
		{"test", "rules", "subnetrouter.rules.test.yml"},
	} {
		if out, err := exec.Command(promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// TestEachAlert: each alert has cases in which it does not fire, fires and resolves, a section
// at the absolute address of its runbook, and uses only documented metrics.
func TestEachAlert(t *testing.T) {
	var r rules
	read(t, "subnetrouter.rules.yml", &r)
	var c cases
	read(t, "subnetrouter.rules.test.yml", &c)
	home := strings.TrimSpace(read(t, "../../build/home", nil))
	sections := anchors(read(t, "../../docs/operations.md", nil))
	documented := read(t, "../../docs/metrics.md", nil)
	metric := regexp.MustCompile(`\b(?:router|tailscaled|process|go)_[a-z_]+\b`)
	byHand := []string{"process_resident_memory_bytes"} // documented as process_*

	var alerts []string
	for _, g := range r.Groups {
		for _, rule := range g.Rules {
			for _, name := range metric.FindAllString(rule.Expr, -1) {
				if !strings.Contains(documented, "| `"+name+"` |") && !slices.Contains(byHand, name) {
					t.Errorf("%s%s: docs/metrics.md lacks %s", rule.Alert, rule.Record, name)
				}
			}
			if rule.Record != "" {
				continue
			}
			alerts = append(alerts, rule.Alert)
			before, fires, resolves := false, false, false
			for _, test := range c.Tests {
				for _, check := range test.Checks {
					switch {
					case check.Alert != rule.Alert:
					case len(check.Expected) > 0:
						fires = true
					case fires:
						resolves = true
					default:
						before = true
					}
				}
			}
			if !before || !fires || !resolves {
				t.Errorf("%s: cases in which it does not fire %v, fires %v, resolves %v", rule.Alert, before, fires, resolves)
			}
			if !slices.Contains([]string{"info", "warning", "critical"}, rule.Labels["severity"]) {
				t.Errorf("%s: severity %q", rule.Alert, rule.Labels["severity"])
			}
			// Absolute: an alert is read in a chat or on a telephone, far from this repository.
			anchor, ok := strings.CutPrefix(rule.Annotations["runbook_url"], home+"/blob/main/docs/operations.md#")
			if !ok || !slices.Contains(sections, anchor) || anchor != "alert-"+strings.ToLower(rule.Alert) {
				t.Errorf("%s: the runbook_url %q is not a section of docs/operations.md at %s; it has %q", rule.Alert, rule.Annotations["runbook_url"], home, sections)
			}
		}
	}
	for _, s := range sections {
		if name, ok := strings.CutPrefix(s, "alert-"); ok && !slices.ContainsFunc(alerts, func(a string) bool { return strings.ToLower(a) == name }) {
			t.Errorf("docs/operations.md has a runbook for %s, which is not an alert", name)
		}
	}
}

// anchors returns the anchors of the headings of a Markdown text, as GitHub generates them.
func anchors(text string) (out []string) {
	for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(text, -1) {
		a := strings.ToLower(m[1])
		a = regexp.MustCompile(`[^a-z0-9 _-]`).ReplaceAllString(a, "")
		out = append(out, strings.ReplaceAll(a, " ", "-"))
	}
	return out
}
