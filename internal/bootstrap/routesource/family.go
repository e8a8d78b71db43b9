package routesource

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"subnetrouter/internal/bootstrap/place"
	"subnetrouter/internal/routes"
)

// families are the IP versions of this router; nil if they do not matter or are unknown.
type families struct{ place.Families }

// families returns the IP versions of this router, or nil if they make no difference to the
// found routes. It returns nil, too, if metadata cannot be read, as that must not withdraw
// routes.
func (f *Finder) families(ctx context.Context, found []Route) *families {
	p := f.config.Place
	if !p.TaskKnown() && !slices.ContainsFunc(found, func(r Route) bool { return !isIPv4(r.Prefix) }) {
		return nil
	}
	have, err := p.Families(ctx)
	if err != nil {
		f.config.Logger.Debug("the addresses of this router are unknown", "err", err)
		return nil
	}
	return &families{have}
}

// isIPv4 reports whether a prefix is for IPv4 targets, 4via6 included.
func isIPv4(p netip.Prefix) bool {
	_, _, via := routes.Unvia(p.Addr())
	return p.Addr().Is4() || via
}

// lacks returns the reason why the task cannot reach a prefix, or "". If such a prefix were
// advertised, clients would get no answer.
func (f *families) lacks(p netip.Prefix) string {
	switch v4 := isIPv4(p); {
	case f == nil, !f.Task, v4 && f.IPv4, !v4 && f.IPv6:
		return ""
	case v4:
		return "the task has no IPv4 address, so it cannot reach these; run it in a subnet with an IPv4 CIDR"
	}
	return "the task has no IPv6 address, so it cannot reach these; run it in a subnet with an IPv6 CIDR, with the account setting dualStackIPv6 on"
}

// note returns the caveat of a prefix that this machine cannot reach at the moment. Outside
// a task interfaces may change, so the operator's prefix is advertised nevertheless.
func (f *families) note(p netip.Prefix) []string {
	if f == nil || f.Task || f.IPv6 || isIPv4(p) {
		return nil
	}
	return []string{fmt.Sprintf("%s is IPv6, and this machine has no IPv6 address: the router cannot reach it", p)}
}
