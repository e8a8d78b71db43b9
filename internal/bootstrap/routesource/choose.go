package routesource

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"subnetrouter/internal/problem"
	"subnetrouter/internal/routes"
)

// choose splits a finding into the routes to advertise and the refused ones; see
// docs/decisions/0005-which-prefixes-are-advertised.md.
func (f *Finder) choose(ctx context.Context, found finding) (Routes, error) {
	r := Routes{Refused: found.refused, Notes: slices.Clone(found.notes)}
	var kept, entries []netip.Prefix
	var names []Route
	has := f.families(ctx, found.routes)
	for _, route := range found.routes {
		if route.Origin == FromName {
			names = append(names, route)
			continue
		}
		reason := f.unfit(route.Prefix)
		if reason == "" {
			reason = has.lacks(route.Prefix)
		}
		if reason != "" {
			r.Refused = append(r.Refused, Refusal{route.Prefix, route.Source, reason})
			continue
		}
		r.Explain = append(r.Explain, route)
		if route.Origin == FromPrefixList {
			entries = append(entries, route.Prefix)
		} else {
			kept = append(kept, route.Prefix)
		}
	}
	// The prefixes of VPCs and operators are not merged, since control approves routes by
	// prefix. Those of a prefix list are: it has up to 1,000, and each is a route on every
	// client.
	kept = routes.Trim(append(kept, routes.Normalize(entries)...), f.config.Exclude)
	kept = append(kept, f.chooseNames(names, kept, has, &r)...)
	kept = f.withoutDefaultRoute(kept, &r)
	kept = f.withoutControl(ctx, kept, &r)
	for _, p := range kept {
		r.Notes = append(r.Notes, has.note(p)...)
		p = f.advertised(p)
		for _, hole := range routes.Holes(p) {
			r.Notes = append(r.Notes, fmt.Sprintf("%s contains %s, which is not forwarded: %s", p, hole.Prefix, hole.Reason))
		}
		r.Advertise = append(r.Advertise, p)
	}
	slices.SortFunc(r.Advertise, netip.Prefix.Compare)
	if len(r.Advertise) == 0 && !f.config.None() {
		return Routes{}, problem.New("add a source to ROUTER_ROUTES or take a prefix out of ROUTER_EXCLUDE_ROUTES", "choosing routes: none is left: %s", refusals(r.Refused))
	}
	return r, nil
}

// advertised returns p as it is advertised: IPv4 as 4via6 if a site is configured.
func (f *Finder) advertised(p netip.Prefix) netip.Prefix {
	if f.config.Site == nil || !p.Addr().Is4() {
		return p
	}
	via, err := routes.Via(*f.config.Site, p)
	if err != nil { // cannot happen: config checked the site
		return p
	}
	return via
}

// unfit returns the reason not to advertise p, or "".
func (f *Finder) unfit(p netip.Prefix) string {
	err := routes.Refuse(f.advertised(p))
	if r := (routes.Refusal{}); errors.As(err, &r) {
		return r.Reason
	}
	if err != nil {
		return err.Error()
	}
	if len(routes.Trim([]netip.Prefix{p}, f.config.Exclude)) == 0 {
		return "excluded by ROUTER_EXCLUDE_ROUTES"
	}
	return ""
}

// withoutDefaultRoute removes prefixes that together form a default route.
func (f *Finder) withoutDefaultRoute(ps []netip.Prefix, r *Routes) []netip.Prefix {
	for _, whole := range routes.Normalize(ps) {
		reason := f.unfit(whole)
		if reason == "" {
			continue
		}
		r.Refused = append(r.Refused, Refusal{whole, "routes taken together", reason})
		ps = slices.DeleteFunc(ps, whole.Overlaps)
	}
	return ps
}

func refusals(list []Refusal) string {
	var s []string
	for _, r := range list {
		s = append(s, fmt.Sprintf("%s from %s (%s)", r.Prefix, r.Source, r.Reason))
	}
	return strings.Join(s, ", ")
}
