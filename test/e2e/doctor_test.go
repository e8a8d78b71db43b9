package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"subnetrouter/internal/testwait"
)

// TestDoctor runs the doctor before a router starts on the host, and then next to it.
func TestDoctor(t *testing.T) {
	w := newWorld(t, worldOptions{})
	r := w.startRouter(routerOptions{})
	r.awaitReady()
	w.awaitPrimary("edge-router")
	ask := func(env []string) map[string]string {
		t.Helper()
		cmd := w.routerHost.Command(testwait.Context(t), binary("router"), "doctor", "--json")
		cmd.Env = env
		out, err := cmd.Output()
		if strings.Contains(string(out), w.routerKey.Reveal()) {
			t.Error("the doctor shows the auth key")
		}
		var report struct {
			OK     bool
			Checks []struct{ Group, Name, State, Value, Fix string }
		}
		if json.Unmarshal(out, &report) != nil {
			t.Fatalf("%v: %s", err, out)
		}
		states := map[string]string{}
		for _, c := range report.Checks {
			states[c.Group+"/"+c.Name] = c.State
			if c.State == "fail" {
				t.Errorf("%s/%s: %s; %s", c.Group, c.Name, c.Value, c.Fix)
			}
		}
		if err != nil || !report.OK {
			t.Errorf("exit: %v, ok: %v", err, report.OK)
		}
		return states
	}
	beside := ask(r.env)
	for _, name := range []string{"place/router", "place/task metadata", "credential/secret", "control/reach", "relays/UDP", "routes/found", "routes/approval"} {
		if beside[name] != "pass" {
			t.Errorf("next to the router, %s is %q", name, beside[name])
		}
	}
	if code := r.stop(); code != 0 {
		t.Errorf("the router ended with %d", code)
	}
	alone := ask(r.env)
	if alone["routes/approval"] != "skip" || alone["credential/secret"] != "pass" || alone["routes/found"] != "pass" {
		t.Errorf("without a router: %v", alone)
	}
}
