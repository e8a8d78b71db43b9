package image

import (
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

// checkMetrics lints a scrape of the container, with client_golang's rules and promtool.
// Problems of the engine's series are only logged, since the router passes them through.
func checkMetrics(t *testing.T, w *world, r container) {
	code, body, err := w.ask(r, "/metrics")
	if err != nil || code != http.StatusOK {
		t.Fatalf("HTTP %d, %v: %s", code, err, body)
	}
	for _, series := range []string{
		"router_build_info{", "router_ready 1\n", "router_primary_routes 1\n",
		"tailscaled_advertised_routes 1\n", "tailscaled_approved_routes 1\n", "go_goroutines ",
	} {
		if !strings.Contains("\n"+body, "\n"+series) {
			t.Errorf("the scrape lacks %q", series)
		}
	}
	problems, err := promlint.New(strings.NewReader(body)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		complain(t, p.Metric+": "+p.Text)
	}
	t.Run("promtool", func(t *testing.T) { promtool(t, body) })
}

func promtool(t *testing.T, scrape string) {
	if _, err := exec.LookPath("promtool"); err != nil {
		skipOrFail(t, err.Error())
	}
	check := exec.Command("promtool", "check", "metrics")
	check.Stdin = strings.NewReader(scrape)
	out, err := check.CombinedOutput()
	lines := slices.DeleteFunc(strings.Split(string(out), "\n"), func(l string) bool { return l == "" })
	for _, line := range lines {
		complain(t, line)
	}
	if err != nil && len(lines) == 0 {
		t.Errorf("promtool: %v", err)
	}
}

func complain(t *testing.T, problem string) {
	t.Helper()
	if strings.HasPrefix(problem, "tailscaled_") {
		t.Logf("the engine's: %s", problem)
		return
	}
	t.Error(problem)
}
