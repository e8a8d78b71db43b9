package router

import (
	"context"
	"net/netip"
	"time"

	"subnetrouter/internal/bootstrap/routesource"
	"subnetrouter/internal/bootstrap/zones"
	"subnetrouter/internal/config"
	"subnetrouter/internal/secret"
	"subnetrouter/internal/splitdns"
)

// PlanDNS describes the change of the tailnet's split DNS that ROUTER_DNS_REGISTER=on makes.
type PlanDNS struct {
	Nameserver netip.Addr `json:"nameserver,omitzero"`
	// Change has the new nameservers of each domain that changes; if the split DNS could not be
	// read, of each domain, without those of others.
	Change splitdns.Table `json:"change"`
	// Held are domains that are left alone, since a change would reset options of others.
	Held []string `json:"held,omitempty"`
	Note string   `json:"note,omitempty"` // why it is not known, or not done
}

// planDNS returns the change of the tailnet's split DNS, or nil if none is configured. resolver may
// be nil. It reads the split DNS, if the credential may.
func planDNS(ctx context.Context, cfg config.Config, table dnsTable, resolver *routesource.Resolver, z zones.Zones) *PlanDNS {
	const timeout = 20 * time.Second
	switch {
	case !cfg.DNSRegister:
		return nil
	case resolver == nil || !resolver.Route.IsValid():
		return &PlanDNS{Note: "the VPC's resolver is unknown or in no advertised route, so nothing is registered"}
	}
	own := splitdns.Own{Nameserver: resolver.Through, Domains: z.Names()}
	p := &PlanDNS{Nameserver: own.Nameserver}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	now, err := table.SplitDNS(ctx)
	change := splitdns.Register(own, now)
	if err == nil {
		change, p.Held, err = keepOptions(ctx, table, now, change)
	}
	if err != nil {
		p.Note = secret.Clean("the tailnet's split DNS could not be read, so nameservers of others are not shown: "+dnsProblem(err).Error(), maxPlanNote)
	}
	p.Change = change.Lists
	return p
}

// maxPlanNote bounds a note, in bytes.
const maxPlanNote = 1000
