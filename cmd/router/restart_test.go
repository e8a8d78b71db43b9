package main

import (
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestCalmRuntime: the router that runs is the second program of its process, with the
// same arguments and environment but for GODEBUG, and begins with one processor.
func TestCalmRuntime(t *testing.T) {
	for _, tc := range []struct{ environ, godebug, processors string }{
		{"", "schedtrace=2147483647", "1"},
		{"GODEBUG=netdns=go", "netdns=go,schedtrace=2147483647", "1"},
		{"GODEBUG=", "schedtrace=2147483647", "1"},
		{"GODEBUG=schedtrace=0 GOMAXPROCS=3", "schedtrace=0", "3"},
	} {
		t.Run(tc.environ, func(t *testing.T) {
			s := newSetting(t)
			for _, e := range strings.Fields(tc.environ) {
				name, value, _ := strings.Cut(e, "=")
				s.Env[name] = value
			}
			c := s.start(t)
			c.awaitReady()
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", c.cmd.Process.Pid))
			if err != nil {
				t.Skip("no /proc here: ", err)
			}
			got := map[string]string{}
			for _, e := range strings.Split(strings.TrimRight(string(b), "\x00"), "\x00") {
				name, value, _ := strings.Cut(e, "=")
				got[name] = value
			}
			for _, e := range append(c.cmd.Env, "GODEBUG="+tc.godebug) {
				name, value, _ := strings.Cut(e, "=")
				if name == "GODEBUG" {
					value = tc.godebug
				}
				if got[name] != value {
					t.Errorf("%s is %q, want %q", name, got[name], value)
				}
			}
			code, body := c.get("/metrics")
			found := regexp.MustCompile(`(?m)^go_sched_gomaxprocs_threads (\d+)$`).FindSubmatch(body)
			if code != http.StatusOK || found == nil || string(found[1]) != tc.processors {
				t.Errorf("HTTP %d, processors: %q, want %s", code, found, tc.processors)
			}
			if n := strings.Count(c.out.String(), `"router starting"`); n != 1 {
				t.Errorf("%d starts in the log, want 1", n)
			}
		})
	}
}
