package main

import (
	"encoding/json"
	"strings"
	"testing"

	"subnetrouter/internal/awstest"
	"subnetrouter/internal/doctor"
	"subnetrouter/internal/ops"
)

// TestTaskWithoutIPv6 expects plan, doctor and status to refuse the VPC's IPv6 prefix with
// the same reason.
func TestTaskWithoutIPv6(t *testing.T) {
	t.Parallel()
	const prefix, reason = "2600:1f18:1:200::/56", "the task has no IPv6 address, so it cannot reach these"
	s := newSetting(t)
	s.Metadata.Update(func(task *awstest.Task) { task.IPv6 = nil })
	out, err := s.command(t, nil, "plan").Output()
	if err != nil || !strings.Contains(string(out), prefix+"  refused: "+reason) {
		t.Errorf("`router plan`: %v\n%s", err, out)
	}
	out, _ = s.command(t, nil, "doctor", "--json").Output()
	if r := results(t, string(out))["routes/found"]; r.State != doctor.Warn || !strings.Contains(r.Value, prefix+" ("+reason) {
		t.Errorf("`router doctor`: %+v", r)
	}
	c := s.start(t)
	c.awaitReady()
	_, body := c.get("/status")
	var status ops.Status
	if err := json.Unmarshal(body, &status); err != nil {
		t.Fatal(err)
	}
	for _, r := range status.Routes {
		if (r.Prefix == prefix) != strings.HasPrefix(r.Refused, reason) || r.Advertised != (r.Refused == "") {
			t.Errorf("/status has %+v", r)
		}
	}
	if len(status.Routes) != 3 {
		t.Errorf("/status has %d routes", len(status.Routes))
	}
}
