package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"text/tabwriter"
	"time"

	"subnetrouter/internal/bootstrap"
	"subnetrouter/internal/config"
	"subnetrouter/internal/ops"
	"subnetrouter/internal/secret"
	"subnetrouter/internal/tailnet"
)

// planTimeout bounds the look-ups of one `router plan`.
const planTimeout = 30 * time.Second

// planned is what `router plan --json` prints.
type planned struct {
	Place      ops.Place         `json:"place"`
	Credential string            `json:"credential"`
	Advertise  []netip.Prefix    `json:"advertise"`
	Routes     []ops.RouteStatus `json:"routes"`
}

// plan is `router plan`: the look-ups of a start, without joining anything. The
// credential is named, not fetched.
func plan(ctx context.Context, in invocation) int {
	asJSON, in := takeFlag(in, "json")
	cfg, err := config.Load(in.args, in.environ)
	if err != nil {
		fmt.Fprintln(in.err, err)
		return exitConfig
	}
	ctx, cancel := context.WithTimeout(ctx, planTimeout)
	defer cancel()
	p, err := makePlan(ctx, cfg)
	if err != nil {
		fmt.Fprintln(in.err, secret.Scrub(err.Error()))
		return exitFailed
	}
	if asJSON {
		enc := json.NewEncoder(in.out)
		enc.SetIndent("", "  ")
		enc.Encode(p)
		return exitOK
	}
	p.print(in.out)
	return exitOK
}

func makePlan(ctx context.Context, cfg config.Config) (planned, error) {
	boot := bootstrap.New(bootstrapConfig(cfg, slog.New(slog.DiscardHandler)))
	place, err := boot.Place(ctx)
	if err != nil {
		return planned{}, err
	}
	routes, err := boot.Routes(ctx)
	if err != nil {
		return planned{}, err
	}
	if place, err = boot.Place(ctx); err != nil { // the look-up of routes told the VPC
		return planned{}, err
	}
	return planned{
		Place:      describePlace(place),
		Credential: credentialSource(cfg),
		Advertise:  routes.Advertise,
		Routes:     describeRoutes(routes, tailnet.Status{}),
	}, nil
}

func credentialSource(cfg config.Config) string {
	switch {
	case cfg.AuthSecret.ID != "":
		return "ROUTER_AUTH_SECRET: Secrets Manager secret " + cfg.AuthSecret.ID
	case cfg.AuthKey != "":
		return "TS_AUTHKEY: a literal auth key"
	}
	return "the node's state in " + cfg.StateDir
}

func (p planned) print(w io.Writer) {
	fmt.Fprintf(w, "place:       %s\n", orDefault(p.Place.String(), "not on ECS"))
	fmt.Fprintf(w, "credential:  %s\n\n", p.Credential)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "ROUTE\tPLAN\tSOURCE")
	for _, r := range p.Routes {
		what := "advertise"
		if r.Refused != "" {
			what = "refused: " + r.Refused
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\n", r.Prefix, what, r.Source)
	}
	tw.Flush()
}

// doctor is `router doctor`.
func doctor(_ context.Context, in invocation) int {
	fmt.Fprintln(in.err, "router: doctor is not yet supported; `router plan` shows what a start would find, `router status` what the running router lacks")
	return exitConfig
}
