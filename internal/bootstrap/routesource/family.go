package routesource

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"subnetrouter/internal/bootstrap/place"
	"subnetrouter/internal/routes"
)

// families are the IP versions of this router; nil where they do not matter or are
// unknown.
type families struct{ place.Families }

// families returns the IP versions of this router, for judging routes. Metadata
// that cannot be read is no reason to withdraw any.
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

// lacks returns why the task cannot reach a prefix, or "". Clients would send to
// such a prefix and get no answer.
func (f *families) lacks(p netip.Prefix) string {
	switch v4 := isIPv4(p); {
	case f == nil, !f.Task, v4 && f.IPv4, !v4 && f.IPv6:
		return ""
	case v4:
		return "the task has no IPv4 address, so it cannot reach these; run it in a subnet with an IPv4 CIDR"
	}
	return "the task has no IPv6 address, so it cannot reach these; run it in a subnet with an IPv6 CIDR, with the account setting dualStackIPv6 on"
}

// note returns the same where only this machine's interfaces show it: they may
// change, and the operator wrote the prefix.
func (f *families) note(p netip.Prefix) []string {
	if f == nil || f.Task || f.IPv6 || isIPv4(p) {
		return nil
	}
	return []string{fmt.Sprintf("%s is IPv6, and this machine has no IPv6 address: the router cannot reach it", p)}
}
