package bootstrap

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"subnetrouter/internal/problem"
	"subnetrouter/internal/routes"
)

// Routes is what to advertise and why. Advertise is never empty without an error.
type Routes struct {
	Advertise []netip.Prefix // sorted, none inside another, without what is excluded, 4via6 where a site is given
	Explain   []Route        // what was found and kept, in the order of the sources
	Refused   []Refusal      // what was found and left out
	Notes     []string       // what to know about routes that are advertised all the same
}

// Route is a prefix that a source gave.
type Route struct {
	Prefix netip.Prefix
	Kind   routes.Kind
	Source string // "vpc vpc-0abc (vpc-cidr-assoc-0def)", "subnet of the task", "ROUTER_ROUTES"

	missing bool // by the last look-up, so far only by that
}

// Refusal is a found prefix that is not advertised.
type Refusal struct {
	Prefix netip.Prefix
	Source string
	Reason string
}

// SourceOf names what led to an advertised prefix: several sources, where one
// holds another or entries of a list were merged.
func (r Routes) SourceOf(p netip.Prefix) string {
	plain := p
	if _, v4, ok := routes.Unvia(p.Addr()); ok && p.Bits() >= 96 {
		plain = netip.PrefixFrom(v4, p.Bits()-96)
	}
	var list []string
	for _, found := range r.Explain {
		if (found.Prefix.Overlaps(p) || found.Prefix.Overlaps(plain)) && !slices.Contains(list, found.String()) {
			list = append(list, found.String())
		}
	}
	const most = 8
	if more := len(list) - most; more > 0 {
		list = append(list[:most], fmt.Sprintf("%d more", more))
	}
	return strings.Join(list, ", ")
}

// String is the source, and whether AWS still knows the route.
func (r Route) String() string {
	if r.missing {
		return r.Source + ", missing: withdrawn unless the next look-up finds it"
	}
	return r.Source
}

// Routes looks every source up once. For as long as a router runs, a
// [Follower] does so instead.
func (b *Bootstrap) Routes(ctx context.Context) (Routes, error) {
	f, err := b.find(ctx)
	if err != nil {
		return Routes{}, err
	}
	return b.choose(ctx, f)
}

// find looks every source up. One that fails fails the whole look-up: part of
// an answer would withdraw routes that are in use.
func (b *Bootstrap) find(ctx context.Context) (finding, error) {
	var all finding
	for _, s := range b.config.Sources {
		f, err := sourceOf(s).find(ctx, b)
		if err != nil {
			return finding{}, problem.Wrapf(err, "looking up source %s of ROUTER_ROUTES", s)
		}
		all.routes = append(all.routes, f.routes...)
		all.refused = append(all.refused, f.refused...)
	}
	if len(all.routes) == 0 && len(all.refused) == 0 {
		if len(b.config.Sources) == 0 {
			return finding{}, problem.New("set it to vpc, subnet or CIDRs", "choosing routes: ROUTER_ROUTES names no source")
		}
		return finding{}, problem.New("add one, such as vpc", "choosing routes: the sources of ROUTER_ROUTES lead to none")
	}
	return all, nil
}
