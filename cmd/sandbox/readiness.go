package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"subnetrouter/internal/ops"
	"subnetrouter/internal/testwait"
)

// loopback ignores HTTP_PROXY: the router's listener is on this machine.
var loopback = &http.Client{
	Transport: &http.Transport{DisableKeepAlives: true},
	Timeout:   5 * time.Second,
}

// getJSON reads a JSON document from the router's listener. It ignores the HTTP status:
// /readyz answers 503 with the reasons as its body.
func getJSON(ctx context.Context, url string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := loopback.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return fmt.Errorf("reading %s: %w", url, err)
	}
	return nil
}

// status waits until the router's /status satisfies good, and returns it.
func (s *demo) status(ctx context.Context, name string, good func(ops.Status) bool) (st ops.Status, err error) {
	err = testwait.For(ctx, name, func(ctx context.Context) error {
		st = ops.Status{}
		if err := getJSON(ctx, "http://"+s.listen+"/status", &st); err != nil {
			return err
		}
		if !good(st) {
			return errors.New("not in /status")
		}
		return nil
	})
	return st, err
}

// readinessReasons returns the reasons of /readyz, or nil if the router does not answer.
func (s *demo) readinessReasons() []string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var r ops.Readiness
	if s.router == nil || getJSON(ctx, "http://"+s.listen+"/readyz", &r) != nil {
		return nil
	}
	var out []string
	for _, why := range r.Reasons {
		text := string(why.Code) + ": " + why.Message
		if why.Fix != "" {
			text += "; " + why.Fix
		}
		out = append(out, text)
	}
	return out
}
