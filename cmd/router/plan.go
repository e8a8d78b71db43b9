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
	"subnetrouter/internal/routes"
	"subnetrouter/internal/secret"
	"subnetrouter/internal/tailnet"
)

// planTimeout bounds the look-ups of one `router plan`.
const planTimeout = 30 * time.Second

// planned is what `router plan --json` prints.
type planned struct {
	Place      ops.Place         `json:"place"`
	Credential string            `json:"credential"`
	Why        string            `json:"credential_why"`
	Advertise  []netip.Prefix    `json:"advertise"`
	Routes     []ops.RouteStatus `json:"routes"`
	Notes      []string          `json:"notes,omitempty"`
	Warnings   []string          `json:"warnings,omitempty"` // of the configuration
	DNS        *ops.DNS          `json:"dns,omitempty"`
	Site       *plannedSite      `json:"site,omitempty"`
}

// plannedSite tells how to reach what is behind a router with a 4via6 site.
type plannedSite struct {
	ID      uint32     `json:"id"`
	Pattern string     `json:"pattern"` // "a-b-c-d-via-7" for a.b.c.d
	Address netip.Addr `json:"address"` // an example
	Name    string     `json:"name"`    // its name in MagicDNS
	Via     netip.Addr `json:"via"`     // its 4via6 address
}

// plan is `router plan`: the look-ups of a start, without joining anything. The
// credential is named, not fetched.
func plan(ctx context.Context, in invocation) int {
	if iam, in := takeFlag(in, "iam"); iam {
		return printPolicy(ctx, in)
	}
	asJSON, in := takeFlag(in, "json")
	cfg, err := config.Load(in.args, in.environ)
	if err != nil {
		fmt.Fprintln(in.err, err)
		return exitConfig
	}
	ctx, cancel := context.WithTimeout(ctx, planTimeout)
	defer cancel()
	if !asJSON {
		printWarnings(in.err, cfg)
	}
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

// printWarnings prints what `router run` logs of the configuration.
func printWarnings(w io.Writer, cfg config.Config) {
	for _, warning := range cfg.Warnings {
		fmt.Fprintf(w, "router: warning: %s\n", warning)
	}
}

func makePlan(ctx context.Context, cfg config.Config) (planned, error) {
	boot := bootstrap.New(bootstrapConfig(cfg, slog.New(slog.DiscardHandler)))
	if _, err := boot.Place(ctx); err != nil {
		return planned{}, err
	}
	found, err := boot.Routes(ctx)
	if err != nil {
		return planned{}, err
	}
	place, err := boot.Place(ctx) // once more: the look-up of routes told the VPC
	if err != nil {
		return planned{}, err
	}
	choice := boot.CredentialChoice()
	p := planned{
		Place:      describePlace(place),
		Credential: choice.What,
		Why:        choice.Why,
		Advertise:  found.Advertise,
		Routes:     describeRoutes(found, tailnet.Status{}),
		Notes:      found.Notes,
		Warnings:   cfg.Warnings,
		Site:       planSite(cfg.SiteID, found),
	}
	if resolver, ok := boot.Resolver(ctx, found); ok {
		p.DNS = describeDNS(resolver)
	}
	return p, nil
}

// planSite picks an example of what 4via6 makes reachable.
func planSite(site *uint32, found bootstrap.Routes) *plannedSite {
	for _, r := range found.Explain {
		if site == nil || !r.Prefix.Addr().Is4() {
			continue
		}
		a := r.Prefix.Addr()
		if host := a.As4(); r.Prefix.Bits() <= 22 {
			host[2] |= 3
			host[3] = 4
			a = netip.AddrFrom4(host)
		}
		via, err := routes.Via(*site, netip.PrefixFrom(a, 32))
		if err != nil {
			continue
		}
		return &plannedSite{
			ID: *site, Pattern: fmt.Sprintf("a-b-c-d-via-%d", *site),
			Address: a, Name: routes.ViaName(*site, a), Via: via.Addr(),
		}
	}
	return nil
}

func (p planned) print(w io.Writer) {
	fmt.Fprintf(w, "place:       %s\n", orDefault(p.Place.String(), "not on ECS"))
	fmt.Fprintf(w, "credential:  %s\n             (%s)\n\n", p.Credential, p.Why)
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
	for _, note := range p.Notes {
		fmt.Fprintf(w, "\nnote: %s\n", note)
	}
	if s := p.Site; s != nil {
		fmt.Fprintf(w, "\nsite %d: IPv4 is advertised as 4via6, so that VPCs with the same addresses can be told apart.\n", s.ID)
		fmt.Fprintf(w, "  In MagicDNS a.b.c.d behind this router is called %s:\n  %s is %s (%s).\n", s.Pattern, s.Address, s.Name, s.Via)
	}
	if p.DNS != nil {
		fmt.Fprintf(w, "\nDNS: %s\n", p.DNS.SplitDNS)
		fmt.Fprintf(w, "  As Terraform:\n\n%s", p.DNS.Terraform)
	}
}
