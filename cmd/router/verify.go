package main

import (
	"cmp"
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
	api := own.String("api", "", "ask Tailscale's API about the routers with this host `NAME`, tag or node ID")
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
		look := func(ctx context.Context) look { return lookAt(ctx, status) }
		switch {
		case *api != "" && *at != "":
			fmt.Fprintln(in.err, "--at, --api: use only one of them")
			return exitConfig
		case *api != "":
			if look, ok = in.lookThroughAPI(*api); !ok {
				return exitConfig
			}
		case *at != "":
			u, err := url.Parse(*at)
			if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
				fmt.Fprintf(in.err, "--at %q is not valid: use a URL such as http://vpc-prod:9002\n", *at)
				return exitConfig
			}
			status = u.JoinPath("/status").String()
		}
		ctx, cancel := context.WithTimeout(ctx, *timeout)
		defer cancel()
		return verify(ctx, in, look)
	}
}

// look is the result of one look at a router.
type look struct {
	verified string        // the facts, if the router is in order
	problem  string        // otherwise why it is not
	final    bool          // waiting does not help
	wait     time.Duration // until the next look; 0 means verifyEvery
}

// verify runs `router verify`: it looks until a look shows a router that is in order, or ctx ends.
func verify(ctx context.Context, in call, at func(context.Context) look) int {
	start := time.Now()
	var problem string
	for {
		now := at(ctx)
		if now.problem == "" {
			fmt.Fprintf(in.out, "verified in %v: %s\n", time.Since(start).Round(100*time.Millisecond), now.verified)
			return exitOK
		}
		if ctx.Err() == nil || problem == "" {
			problem = now.problem
		}
		if now.final || !backoff.Sleep(ctx, cmp.Or(now.wait, verifyEvery)) {
			fmt.Fprintf(in.err, "not verified within %v: %s\n", time.Since(start).Round(100*time.Millisecond), problem)
			return exitFailed
		}
	}
}

// lookAt looks at the status of a router.
func lookAt(ctx context.Context, status string) look {
	code, body, err := get(ctx, status)
	switch {
	case err != nil:
		return look{problem: err.Error()}
	case code == http.StatusForbidden:
		return look{problem: strings.TrimSpace(secret.Clean(string(body), ops.MaxMessage)), final: true}
	case code != http.StatusOK:
		return look{problem: fmt.Sprintf("the router answers HTTP %d at %s", code, status)}
	}
	var s ops.Status
	if err := json.Unmarshal(body, &s); err != nil {
		return look{problem: fmt.Sprintf("the answer of %s is not the status of a router: %v", status, err), final: true}
	}
	return look{verified: s.Node.Name + " serves " + routesServed(s), problem: notInOrder(s)}
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
