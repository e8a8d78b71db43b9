package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"subnetrouter/internal/config"
	"subnetrouter/internal/httpproxy"
	"subnetrouter/internal/ops"
)

// askTimeout is shorter than the shortest sensible container health check
// timeout, 5 s by ECS's default.
const askTimeout = 4 * time.Second

// ask gets a path of the running router's HTTP listener.
func ask(ctx context.Context, in invocation, path string) (code int, body []byte, err error) {
	listen, err := config.LoadListen(in.args, in.environ)
	if err != nil {
		return 0, nil, err
	}
	return get(ctx, config.LocalURL(listen, path))
}

// own asks the router on this machine, which no proxy can reach: ROUTER_LISTEN
// may name the task's own address.
var own = &http.Client{Transport: httpproxy.Direct()}

func get(ctx context.Context, url string) (code int, body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := own.Do(req)
	if err != nil {
		return 0, nil, fmt.Errorf("asking the router at %s: %w; is it running, with the same ROUTER_LISTEN?", url, err)
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	return resp.StatusCode, body, err
}

// healthcheck is `router healthcheck`, for the container health check.
func healthcheck(ctx context.Context, in invocation) int {
	ready, in := takeFlag(in, "ready")
	started, in := takeFlag(in, "started")
	path := "/healthz"
	switch {
	case ready:
		path = "/readyz"
	case started:
		path = "/healthz/started"
	}
	code, body, err := ask(ctx, in, path)
	if err != nil {
		fmt.Fprintln(in.err, err)
		return exitFailed
	}
	if code != http.StatusOK {
		fmt.Fprintf(in.err, "%s", body)
		return exitFailed
	}
	return exitOK
}

// status is `router status`.
func status(ctx context.Context, in invocation) int {
	asJSON, in := takeFlag(in, "json")
	code, body, err := ask(ctx, in, "/status")
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("asking the router for its status: HTTP %d", code)
	}
	var s ops.Status
	if err == nil {
		err = json.Unmarshal(body, &s)
	}
	switch {
	case err != nil:
		fmt.Fprintln(in.err, err)
		return exitFailed
	case asJSON:
		in.out.Write(body)
	default:
		printStatus(in.out, s)
	}
	return exitOK
}

func routeState(r ops.RouteStatus) string {
	switch {
	case r.Refused != "":
		return "refused: " + r.Refused
	case r.Primary:
		return "primary"
	case r.Approved:
		return "standby"
	case r.Advertised:
		return "awaits approval"
	}
	return "not advertised"
}

func orDefault(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// takeFlag removes a boolean flag that only the command knows, and leaves the
// rest to the configuration.
func takeFlag(in invocation, name string) (given bool, rest invocation) {
	rest = in
	rest.args = nil
	for _, a := range in.args {
		if a == "--"+name || a == "-"+name {
			given = true
			continue
		}
		rest.args = append(rest.args, a)
	}
	return given, rest
}
