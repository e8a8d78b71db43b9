package e2e

import (
	"fmt"
	"html"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"subnetrouter/internal/browsertest"
)

// drawDashboard draws the results of the dashboard's queries as SVG and takes a picture. It
// shows the same numbers in the same places as Grafana.
func drawDashboard(t *testing.T, p *prometheus, panels []dashboardPanel, d time.Duration, file string) {
	var b strings.Builder
	b.WriteString(`<!doctype html><meta charset="utf-8"><style>
body { background: #111217; color: #ccccdc; font: 12px system-ui, sans-serif; margin: 8px; width: 1184px }
main { display: grid; grid-template-columns: repeat(24, 1fr); gap: 8px }
div { background: #181b1f; border: 1px solid #2c3235; border-radius: 3px; padding: 6px 8px; overflow: hidden }
h1 { font-size: 18px; margin: 4px } h2 { grid-column: span 24; font-size: 13px; margin: 4px 0 0 } h3 { font-size: 12px; font-weight: 600; margin: 0 0 4px }
strong { font-size: 26px; color: #73bf69; display: block; text-align: center } p { margin: 2px 0 0; color: #8e8e99; line-height: 1.3 }
</style><h1>Subnet routers</h1><main>`)
	for _, panel := range panels {
		if panel.Type == "row" {
			fmt.Fprintf(&b, "<h2>%s</h2>", html.EscapeString(panel.Title))
			continue
		}
		fmt.Fprintf(&b, `<div style="grid-column: span %d"><h3>%s</h3>`, panel.GridPos.W, html.EscapeString(panel.Title))
		switch panel.Type {
		case "stat":
			value := "no data"
			if a := p.query(t, panel.Targets[0].query()); a.values > 0 {
				value = withUnit(a.series[0].points[0][1], panel.FieldConfig.Defaults.Unit)
			}
			fmt.Fprintf(&b, "<strong>%s</strong>", value)
		case "table":
			for _, s := range p.query(t, panel.Targets[0].query()).series {
				fmt.Fprintf(&b, "<p>%s: %s, tailscale %s</p>", html.EscapeString(s.labels["instance"]), html.EscapeString(s.labels["version"]), html.EscapeString(s.labels["tailscale_version"]))
			}
		default:
			drawLines(t, &b, p, panel, d)
		}
		b.WriteString("</div>")
	}
	b.WriteString("</main>")
	page := filepath.Join(t.TempDir(), "dashboard.html")
	if err := os.WriteFile(page, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	browsertest.Open(t, "file://"+page, browsertest.Options{Width: 1200, Height: 800}).Save(file)
}

var lineColors = []string{"#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#b877d9", "#5794f2", "#96d98d"}

func drawLines(t *testing.T, b *strings.Builder, p *prometheus, panel dashboardPanel, d time.Duration) {
	const width, height = 350.0, 90.0
	type line struct {
		name   string
		points [][2]float64
	}
	var lines []line
	from, to, most := 0.0, 0.0, 0.0
	for _, target := range panel.Targets {
		for _, s := range p.queryRange(t, target.query(), d).series {
			if len(s.points) == 0 {
				continue
			}
			lines = append(lines, line{legend(target.LegendFormat, s.labels), s.points})
			for _, point := range s.points {
				if from == 0 || point[0] < from {
					from = point[0]
				}
				to, most = max(to, point[0]), max(most, point[1])
			}
		}
	}
	if len(lines) == 0 {
		b.WriteString("<p>no data</p>")
		return
	}
	if most == 0 {
		most = 1
	}
	fmt.Fprintf(b, `<svg width="100%%" viewBox="0 0 %v %v"><path d="M0 .5H%v M0 %v H%v" stroke="#2c3235"/>`, width, height+2, width, height, width)
	for i, l := range lines {
		var path strings.Builder
		for j, point := range l.points {
			op := "L"
			if j == 0 {
				op = "M"
			}
			fmt.Fprintf(&path, "%s%.1f %.1f", op, (point[0]-from)/max(to-from, 1)*width, height-point[1]/most*(height-8))
		}
		fmt.Fprintf(b, `<path d="%s" fill="none" stroke="%s" stroke-width="1.3"/>`, path.String(), lineColors[i%len(lineColors)])
	}
	fmt.Fprintf(b, `<text x="2" y="11" fill="#8e8e99" font-size="9">%s</text></svg><p>`, withUnit(most, panel.FieldConfig.Defaults.Unit))
	for i, l := range lines[:min(len(lines), 8)] {
		fmt.Fprintf(b, `<span style="color: %s">━</span> %s  `, lineColors[i%len(lineColors)], html.EscapeString(l.name))
	}
	b.WriteString("</p>")
}

func legend(format string, labels map[string]string) string {
	return regexp.MustCompile(`\{\{(\w+)\}\}`).ReplaceAllStringFunc(format, func(m string) string { return labels[strings.Trim(m, "{}")] })
}

func withUnit(v float64, unit string) string {
	switch unit {
	case "percentunit":
		return fmt.Sprintf("%.1f %%", 100*v)
	case "Bps", "bytes":
		suffix := map[string]string{"Bps": "B/s", "bytes": "B"}[unit]
		for _, scale := range []string{"", "k", "M", "G"} {
			if v < 1000 {
				return fmt.Sprintf("%.3g %s%s", v, scale, suffix)
			}
			v /= 1000
		}
	case "s":
		if v < 1 {
			return fmt.Sprintf("%.3g ms", 1000*v)
		}
		return fmt.Sprintf("%.3g s", v)
	}
	return fmt.Sprintf("%.3g", v)
}
