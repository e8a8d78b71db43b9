package main

import (
	"net/http"
	"regexp"
	"testing"
)

// TestProcessors expects the router to start with one processor, or with GOMAXPROCS.
func TestProcessors(t *testing.T) {
	for gomaxprocs, want := range map[string]string{"": "1", "3": "3"} {
		t.Run("GOMAXPROCS="+gomaxprocs, func(t *testing.T) {
			s := newSetting(t)
			if gomaxprocs != "" {
				s.Env["GOMAXPROCS"] = gomaxprocs
			}
			c := s.start(t)
			c.awaitReady()
			code, body := c.get("/metrics")
			found := regexp.MustCompile(`(?m)^go_sched_gomaxprocs_threads (\d+)$`).FindSubmatch(body)
			if code != http.StatusOK || found == nil || string(found[1]) != want {
				t.Errorf("HTTP %d, processors: %q, want %s", code, found, want)
			}
		})
	}
}
