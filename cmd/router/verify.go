package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"subnetrouter/internal/backoff"
	"subnetrouter/internal/config"
	"subnetrouter/internal/ops"
	"subnetrouter/internal/secret"
)

// verifyEvery is the interval between two looks at the router's status.
const verifyEvery = 2 * time.Second

func verifyCommand(own *flag.FlagSet) func(context.Context, call) int {
	at := own.String("at", "", "`URL` of the router, such as http://vpc-prod:9002 on the tailnet")
	timeout := own.Duration("timeout", 5*time.Minute, "how long to wait, 1s to 1h")
	return func(ctx context.Context, in call) int {
		listen, code, ok := in.listen()
		if !ok {
			return code
		}
		if *timeout < time.Second || *timeout > time.Hour {
			fmt.Fprintf(in.err, "--timeout %v is not valid: use 1s to 1h\n", *timeout)
			return exitConfig
		}
		status := config.LocalURL(listen, "/status")
		if *at != "" {
			u, err := url.Parse(*at)
			if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
				fmt.Fprintf(in.err, "--at %q is not valid: use a URL such as http://vpc-prod:9002\n", *at)
				return exitConfig
			}
			status = u.JoinPath("/status").String()
		}
		ctx, cancel := context.WithTimeout(ctx, *timeout)
		defer cancel()
		return verify(ctx, in, status)
	}
}

// verify runs `router verify`: it asks for the status until it shows a router that is in order, or
// ctx ends.
func verify(ctx context.Context, in call, status string) int {
	start := time.Now()
	var problem string
	for {
		s, now, final := lookAt(ctx, status)
		if now == "" {
			fmt.Fprintf(in.out, "verified in %v: %s serves %s\n", time.Since(start).Round(100*time.Millisecond), s.Node.Name, routesServed(s))
			return exitOK
		}
		if ctx.Err() == nil || problem == "" {
			problem = now
		}
		if final || !backoff.Sleep(ctx, verifyEvery) {
			fmt.Fprintf(in.err, "not verified within %v: %s\n", time.Since(start).Round(100*time.Millisecond), problem)
			return exitFailed
		}
	}
}

// lookAt returns the status of a router and the reason why it is not in order; "" is none. final
// reports that waiting does not help.
func lookAt(ctx context.Context, status string) (s ops.Status, problem string, final bool) {
	code, body, err := get(ctx, status)
	switch {
	case err != nil:
		return s, err.Error(), false
	case code == http.StatusForbidden:
		return s, strings.TrimSpace(secret.Clean(string(body), ops.MaxMessage)), true
	case code != http.StatusOK:
		return s, fmt.Sprintf("the router answers HTTP %d at %s", code, status), false
	}
	if err := json.Unmarshal(body, &s); err != nil {
		return s, fmt.Sprintf("the answer of %s is not the status of a router: %v", status, err), true
	}
	return s, notInOrder(s), false
}

// notInOrder returns the first reason why flows to the routes of a router may fail, or "". A route
// counts as served if a peer router is primary for it: any other node may lead to another network.
func notInOrder(s ops.Status) string {
	if len(s.Reasons) > 0 {
		r := s.Reasons[0]
		return strings.TrimSuffix(fmt.Sprintf("%s: %s; %s", r.Code, r.Message, r.Fix), "; ")
	}
	if !s.Ready {
		return "the router is not ready"
	}
	served := false
	for _, r := range s.Routes {
		other := slices.IndexFunc(s.OtherRoutes, func(o ops.OtherRoute) bool { return o.Prefix == r.Prefix })
		switch {
		case r.Refused != "":
			continue
		case !r.Advertised:
			return r.Prefix + " is not advertised"
		case !r.Approved:
			return r.Prefix + " is not approved"
		case r.Primary:
		case other < 0:
			return "no router is primary for " + r.Prefix
		case !s.OtherRoutes[other].Peer:
			return fmt.Sprintf("%s serves %s, and has no tag of this router: remove its route if it does not lead to this VPC", s.OtherRoutes[other].Node, r.Prefix)
		}
		served = true
	}
	if !served {
		return "the router advertises no route"
	}
	return ""
}

func routesServed(s ops.Status) string {
	var list []string
	for _, r := range s.Routes {
		switch {
		case r.Refused != "":
		case r.Primary:
			list = append(list, r.Prefix)
		default:
			list = append(list, r.Prefix+" as standby")
		}
	}
	return strings.Join(list, ", ")
}
