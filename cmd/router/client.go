package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"time"

	"subnetrouter/internal/config"
	"subnetrouter/internal/httpproxy"
	"subnetrouter/internal/ops"
)

// askTimeout is shorter than the timeout of a container health check, 5 s by ECS's default.
const askTimeout = 4 * time.Second

// localClient is the client for the router on this machine. It uses no proxy, which could
// not reach the router: ROUTER_LISTEN may be the task's address.
var localClient = &http.Client{Transport: httpproxy.Direct()}

func get(ctx context.Context, url string) (code int, body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := localClient.Do(req)
	if err != nil {
		return 0, nil, fmt.Errorf("asking the router at %s: %w; is it running, with the same ROUTER_LISTEN?", url, err)
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	return resp.StatusCode, body, err
}

func healthcheckCommand(own *flag.FlagSet) func(context.Context, call) int {
	ready := own.Bool("ready", false, "exit 0 only if the router is ready")
	started := own.Bool("started", false, "exit 0 only if the router is live and has been ready once")
	return func(ctx context.Context, in call) int {
		listen, code, ok := in.listen()
		switch {
		case !ok:
			return code
		case *ready && *started:
			fmt.Fprintln(in.err, "--ready, --started: use only one of them")
			return exitConfig
		case *ready:
			return healthcheck(ctx, in, config.LocalURL(listen, "/readyz"))
		case *started:
			return healthcheck(ctx, in, config.LocalURL(listen, "/healthz/started"))
		}
		return healthcheck(ctx, in, config.LocalURL(listen, "/healthz"))
	}
}

// healthcheck runs `router healthcheck`, for the container health check.
func healthcheck(ctx context.Context, in call, url string) int {
	code, body, err := get(ctx, url)
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

func statusCommand(own *flag.FlagSet) func(context.Context, call) int {
	asJSON := own.Bool("json", false, "print JSON")
	return func(ctx context.Context, in call) int {
		listen, code, ok := in.listen()
		if !ok {
			return code
		}
		s, body, err := askStatus(ctx, listen)
		switch {
		case err != nil:
			fmt.Fprintln(in.err, err)
			return exitFailed
		case *asJSON:
			in.out.Write(body)
		default:
			in.show(func(w io.Writer) { printStatus(w, s) })
		}
		return exitOK
	}
}

// askStatus returns the status of the router that listens on an address, parsed and as
// received.
func askStatus(ctx context.Context, listen string) (s ops.Status, body []byte, err error) {
	code, body, err := get(ctx, config.LocalURL(listen, "/status"))
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("asking the router for its status: HTTP %d", code)
	}
	if err == nil {
		err = json.Unmarshal(body, &s)
	}
	return s, body, err
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
