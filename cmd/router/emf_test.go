package main

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestEmbeddedMetricsInALogOfText: the last line of a router with figures is one JSON object
// between the lines of the log, whatever their format is.
func TestEmbeddedMetricsInALogOfText(t *testing.T) {
	s := newSetting(t)
	s.Env["ROUTER_EMF"], s.Env["ROUTER_LOG_FORMAT"] = "on", "text"
	c := s.start(t)
	c.awaitReady()
	if code := c.stop(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	figures := 0
	for line := range strings.Lines(c.out.String()) {
		var object map[string]any
		switch {
		case strings.HasPrefix(line, "time="):
		case json.Unmarshal([]byte(line), &object) == nil && object["_aws"] != nil && object["Ready"] == 0.0:
			figures++
		default:
			t.Errorf("neither text nor embedded metrics: %s", line)
		}
	}
	if figures != 1 {
		t.Errorf("%d lines of embedded metrics, want the one of the end", figures)
	}
}
