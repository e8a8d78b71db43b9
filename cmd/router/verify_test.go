package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"subnetrouter/internal/ops"
)

// TestVerify: the command waits for a router that becomes ready, and names the missing part.
func TestVerify(t *testing.T) {
	ready := func() ops.Status {
		return ops.Status{Ready: true, Node: ops.Node{Name: "edge"}, Routes: []ops.RouteStatus{
			{Prefix: "10.0.0.0/16", Advertised: true, Approved: true, Primary: true}, {Prefix: "169.254.0.0/16", Refused: "link-local"},
		}}
	}
	for name, tc := range map[string]struct {
		change     func(*ops.Status)
		code       int
		out, fails string
	}{
		"ready": {func(*ops.Status) {}, exitOK, "edge serves 10.0.0.0/16\n", ""},
		"standby": {func(s *ops.Status) {
			s.Routes[0].Primary = false
			s.OtherRoutes = []ops.OtherRoute{{Node: "edge-1", Prefix: "10.0.0.0/16", Peer: true}}
		}, exitOK, "10.0.0.0/16 as standby", ""},
		"primary at a stranger": {func(s *ops.Status) {
			s.Routes[0].Primary = false
			s.OtherRoutes = []ops.OtherRoute{{Node: "lab", Prefix: "10.0.0.0/16"}}
		}, exitFailed, "", "lab serves 10.0.0.0/16, and has no tag of this router"},
		"not primary":    {func(s *ops.Status) { s.Routes[0].Primary = false }, exitFailed, "", "no router is primary for 10.0.0.0/16"},
		"not approved":   {func(s *ops.Status) { s.Routes[0].Approved = false }, exitFailed, "", "10.0.0.0/16 is not approved"},
		"not advertised": {func(s *ops.Status) { s.Routes[0].Advertised = false }, exitFailed, "", "10.0.0.0/16 is not advertised"},
		"no route":       {func(s *ops.Status) { s.Routes = nil }, exitFailed, "", "advertises no route"},
		"a probe fails": {func(s *ops.Status) {
			s.Ready, s.Reasons = false, []ops.Reason{{Code: "probe_failed", Message: "no connection to 10.0.3.4:5432", Fix: "make it reachable"}}
		}, exitFailed, "", "probe_failed: no connection to 10.0.3.4:5432; make it reachable"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int32
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				s := ready()
				if asked.Add(1); asked.Load() == 1 && tc.code == exitOK {
					s.Ready = false // at first
				} else {
					tc.change(&s)
				}
				json.NewEncoder(w).Encode(s)
			}))
			defer server.Close()
			timeout := "1s"
			if tc.code == exitOK {
				timeout = "20s"
			}
			var out, stderr bytes.Buffer
			code := dispatch(invocation{args: []string{"router", "verify", "--at", server.URL, "--timeout", timeout}, out: &out, err: &stderr})
			if code != tc.code || !strings.Contains(out.String(), tc.out) || !strings.Contains(stderr.String(), tc.fails) || strings.Count(out.String()+stderr.String(), "\n") != 1 {
				t.Errorf("exit %d, %q, %q", code, out.String(), stderr.String())
			}
		})
	}
}

// TestVerifyForbidden: a grant that is missing does not come by waiting.
func TestVerifyForbidden(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "this node may not read the router's status", http.StatusForbidden)
	}))
	defer server.Close()
	var out, stderr bytes.Buffer
	code := dispatch(invocation{args: []string{"router", "verify", "--at", server.URL}, out: &out, err: &stderr})
	if code != exitFailed || !strings.Contains(stderr.String(), "may not read") {
		t.Errorf("exit %d, %q", code, stderr.String())
	}
}
