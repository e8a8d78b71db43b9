package main

import (
	"encoding/json"
	"errors"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"subnetrouter/internal/doctor"
	"subnetrouter/internal/router"
	"subnetrouter/internal/routertest"
)

// TestWarningsAreTheSameEverywhere expects `plan` and `doctor` to print the warnings that
// `run` logs: they are used before the router runs.
func TestWarningsAreTheSameEverywhere(t *testing.T) {
	t.Parallel()
	s := newSetting(t)
	explicitRoutes(s)
	maps.Copy(s.Env, map[string]string{
		"TS_HOSTNAM": "edge", "TS_ROUTE": "10.0.0.0/8", "TAILSCALE_AUTHKEY": routertest.Key, "TS_HOSTNAME": "one", "ROUTER_HOSTNAME": "two",
		"ROUTER_DRAIN_TIMEOUT": "115s", "TAILSCALE_ADDITIONAL_FLAGS": "--accept-dns", "TS_NODE_PROJECT": "tsconfig.json",
	})
	want := s.Load(t).Warnings
	if len(want) != 7 {
		t.Fatalf("there are %d warnings: %q", len(want), want)
	}

	c := s.start(t)
	c.awaitReady()
	c.stop()
	var logged []string
	for line := range strings.Lines(c.out.String()) {
		var entry struct{ Level, Msg, Text string }
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == "configuration" {
			logged = append(logged, entry.Text)
		}
	}
	if !slices.Equal(logged, want) {
		t.Errorf("`run` logs\n%q\nwant\n%q", logged, want)
	}

	output := func(args ...string) (out, errs string) {
		t.Helper()
		cmd := s.command(t, nil, args...)
		var b strings.Builder
		cmd.Stderr = &b
		data, err := cmd.Output()
		if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
			t.Fatal(err)
		}
		if both := string(data) + b.String(); strings.Contains(both, routertest.Key) {
			t.Errorf("%q shows the key:\n%s", args, both)
		}
		return string(data), b.String()
	}
	var lines []string
	for _, w := range want {
		lines = append(lines, "router: warning: "+w)
	}
	for _, args := range [][]string{{"plan"}, {"plan", "--iam", "--kms-key=arn:aws:kms:eu-west-1:123456789012:key/k"}} {
		if _, errs := output(args...); !slices.Equal(strings.Split(strings.TrimSpace(errs), "\n"), lines) {
			t.Errorf("%q has on standard error\n%s\nwant\n%s", args, errs, strings.Join(lines, "\n"))
		}
	}
	var p router.Plan
	out, _ := output("plan", "--json")
	if err := json.Unmarshal([]byte(out), &p); err != nil || !slices.Equal(p.Warnings, want) {
		t.Errorf("`plan --json` has the warnings\n%q, %v\nwant\n%q", p.Warnings, err, want)
	}
	var report doctor.Report
	out, _ = output("doctor", "--json")
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatal(err)
	}
	var warned []string
	for _, r := range report.Results {
		if r.Name == "configuration" && r.State == doctor.Warn {
			warned = append(warned, r.Value)
		}
	}
	if !slices.Equal(warned, want) {
		t.Errorf("`doctor --json` warns of\n%q\nwant\n%q", warned, want)
	}
	out, _ = output("doctor")
	for _, w := range want {
		if !strings.Contains(strings.Join(strings.Fields(out), " "), "warn configuration "+w) {
			t.Errorf("`doctor` lacks a line on %s:\n%s", w, out)
		}
	}
}
