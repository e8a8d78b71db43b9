package router

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"

	"subnetrouter/internal/bootstrap"
	"subnetrouter/internal/bootstrap/routesource"
	"subnetrouter/internal/config"
	"subnetrouter/internal/ops"
	"subnetrouter/internal/routes"
	"subnetrouter/internal/tailnet"
)

// Plan describes a start of a router with a configuration. It is the output of
// `router plan --json`.
type Plan struct {
	Place      ops.Place         `json:"place"`
	Credential string            `json:"credential"`
	Why        string            `json:"credential_why"`
	State      string            `json:"state"` // ROUTER_STATE
	Advertise  []netip.Prefix    `json:"advertise"`
	Routes     []ops.RouteStatus `json:"routes"`
	Notes      []string          `json:"notes,omitempty"`
	Warnings   []string          `json:"warnings,omitempty"` // about the configuration
	DNS        *ops.DNS          `json:"dns,omitempty"`
	Register   *PlanDNS          `json:"dns_registration,omitempty"`
	Site       *PlanSite         `json:"site,omitempty"`
	// StatusGrants is the part of the tailnet policy that ROUTER_TAILNET_STATUS=on needs.
	StatusGrants *Grants `json:"status_grants,omitempty"`
	// ServeGrants is the part of the tailnet policy that ROUTER_SERVE needs.
	ServeGrants *Grants `json:"serve_grants,omitempty"`
	// Roles are the roles that are on, with the part of the tailnet policy that each needs.
	Roles []PlanRole `json:"roles,omitempty"`
	// AccessGrants is an example of the grants that ROUTER_ACCESS needs: the first opens the routes, and the
	// second names targets.
	AccessGrants *Grants `json:"access_grants,omitempty"`
}

// PlanSite describes, with an example, how clients reach targets behind a router with a
// 4via6 site.
type PlanSite struct {
	ID      uint32     `json:"id"`
	Pattern string     `json:"pattern"` // "a-b-c-d-via-7" for a.b.c.d
	Address netip.Addr `json:"address"` // an example
	Name    string     `json:"name"`    // its name in MagicDNS
	Via     netip.Addr `json:"via"`     // its 4via6 address
}

// MakePlan makes the look-ups of a start, without joining the tailnet. It names the
// credential's source without reading it, unless it plans a change of the tailnet's split DNS.
func MakePlan(ctx context.Context, cfg config.Config) (Plan, error) {
	boot := bootstrap.New(LookUpConfig(cfg, slog.New(slog.DiscardHandler)))
	if _, err := boot.Place(ctx); err != nil {
		return Plan{}, err
	}
	found, err := boot.Routes(ctx)
	if err != nil {
		return Plan{}, err
	}
	place, err := boot.Place(ctx) // again: the look-up of routes found the VPC
	if err != nil {
		return Plan{}, err
	}
	choice := boot.CredentialChoice()
	p := Plan{
		Place:      describePlace(place),
		Credential: choice.What,
		Why:        choice.Why,
		State:      cfg.Identity.Source.String(),
		Advertise:  append([]netip.Prefix{}, found.Advertise...),
		Routes:     describeRoutes(found, tailnet.Status{}),
		Notes:      found.Notes,
		Warnings:   cfg.Warnings,
		Site:       planSite(cfg.Routes.Site, found),

		StatusGrants: statusGrants(cfg),
		ServeGrants:  serveGrants(cfg),
		Roles:        PlanRoles(cfg),
		AccessGrants: accessGrants(cfg, place.VPCID, found.Advertise),
	}
	zones, _ := boot.Zones(ctx) // its notes have the error
	resolver, known := boot.Resolver(ctx, found)
	address := &resolver
	if !known {
		address = nil
	}
	p.DNS = describeDNS(address, zones, cfg.DNS, cfg.Routes.Site)
	p.Register = planDNS(ctx, cfg, boot, address, zones)
	return p, nil
}

// planSite returns an example target that is reachable by 4via6, or nil without a site.
func planSite(site *uint32, found routesource.Routes) *PlanSite {
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
		return &PlanSite{
			ID: *site, Pattern: fmt.Sprintf("a-b-c-d-via-%d", *site),
			Address: a, Name: routes.ViaName(*site, a), Via: via.Addr(),
		}
	}
	return nil
}
