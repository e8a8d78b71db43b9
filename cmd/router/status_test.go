package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"subnetrouter/internal/ops"
)

// TestStatusHasEventsAndLimits gets /status of the real binary after a start, one of whose
// events concerns a credential.
func TestStatusHasEventsAndLimits(t *testing.T) {
	s := newSetting(t)
	s.Env["ROUTER_HOSTNAME"] = "edge"
	s.Env["ROUTER_MAX_FLOWS"] = "1000"
	c := s.start(t)
	c.awaitReady()
	code, body := c.get("/status")
	var got ops.Status
	if err := json.Unmarshal(body, &got); code != 200 || err != nil {
		t.Fatalf("HTTP %d, %v: %s", code, err, body)
	}
	logged := func(message, detail string) bool {
		return slices.ContainsFunc(got.Events, func(e ops.Event) bool {
			return e.Message == message && !e.Time.IsZero() && e.Level != "" && strings.Contains(strings.Join(e.Detail, " "), detail)
		})
	}
	for message, detail := range map[string]string{
		"router starting": "version=", "credential read": "source=", "route added": "prefix=10.0.0.0/16",
		"routes advertised": "10.0.0.0/16", "tailnet state changed": "to=Running",
	} {
		if !logged(message, detail) {
			t.Errorf("no event %q with %s in %+v", message, detail, got.Events)
		}
	}
	if i := slices.IndexFunc(got.Events, func(e ops.Event) bool { return e.Message == "router starting" }); i != len(got.Events)-1 {
		t.Errorf("the start is event %d of %d; the newest come first", i, len(got.Events))
	}
	l := got.Limits
	if l.Flows.Limit != 1000 || l.FlowsPerPeer.Limit == 0 || l.OpenFiles.Used < 5 || l.OpenFiles.Limit <= l.OpenFiles.Used || l.MemoryBytes.Used < 1<<20 {
		t.Errorf("limits %+v", l)
	}
	if got.Peers.Total != 0 || got.Peers.List == nil {
		t.Errorf("peers %+v: there are none, and the list is no null", got.Peers)
	}
}
