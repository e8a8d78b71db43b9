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

// loopback has no use for a proxy that the user may have set.
var loopback = &http.Client{
	Transport: &http.Transport{DisableKeepAlives: true},
	Timeout:   5 * time.Second,
}

// ask reads a JSON document that the router serves; the HTTP status does not
// matter, as the body of a 503 is what one wants to read.
func ask(ctx context.Context, url string, into any) error {
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

// status waits until the router's /status is as wanted, and returns it.
func (s *story) status(ctx context.Context, what string, good func(ops.Status) bool) (st ops.Status, err error) {
	err = testwait.For(ctx, what, func(ctx context.Context) error {
		st = ops.Status{}
		if err := ask(ctx, "http://"+s.listen+"/status", &st); err != nil {
			return err
		}
		if !good(st) {
			return errors.New("not in /status")
		}
		return nil
	})
	return st, err
}

// askReasons returns what the router says of its readiness, if it still can.
func (s *story) askReasons() []string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var r ops.Readiness
	if s.router == nil || ask(ctx, "http://"+s.listen+"/readyz", &r) != nil {
		return nil
	}
	var out []string
	for _, why := range r.Reasons {
		text := why.Code + ": " + why.Message
		if why.Fix != "" {
			text += "; " + why.Fix
		}
		out = append(out, text)
	}
	return out
}
