// Package routesource finds the routes to advertise: it looks up the elements of
// ROUTER_ROUTES (one file per kind of route source, all registered in kinds), chooses the
// prefixes that may be advertised, and follows changes.
package routesource

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"subnetrouter/internal/bootstrap/iam"
	"subnetrouter/internal/bootstrap/place"
	"subnetrouter/internal/problem"
	"subnetrouter/internal/routes"
)

// Routes holds the routes to advertise and their origin. Advertise is empty only together
// with an error, or with the source [None].
type Routes struct {
	Advertise []netip.Prefix // sorted, none inside another, without excluded ones, 4via6 if a site is configured
	Explain   []Route        // the found prefixes that were kept, in the order of the sources
	Refused   []Refusal      // the found prefixes that were not
	Notes     []string       // caveats about advertised routes
}

// Route is a prefix that a source found.
type Route struct {
	Prefix netip.Prefix
	Origin Origin
	Source string // "vpc vpc-0abc (vpc-cidr-assoc-0def)", "subnet of the task", "ROUTER_ROUTES"

	missing bool // the last look-up did not find it, the one before did
}

// Origin is the origin of a route; the choice of routes depends on it.
type Origin int

const (
	FromAWS        Origin = iota // the task's VPC or a network connected to it
	FromOperator                 // written in ROUTER_ROUTES; advertised as it is
	FromPrefixList               // one of possibly a thousand entries of a prefix list; merged with others
	FromName                     // an address of a DNS name; a route only if it is in no other one
)

// Refusal is a found prefix that is not advertised.
type Refusal struct {
	Prefix netip.Prefix
	Source string
	Reason string
}

// SourceOf returns the source of an advertised prefix: several ones if a prefix contains
// another or entries of a list were merged.
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
	const maxSources = 8
	if more := len(list) - maxSources; more > 0 {
		list = append(list[:maxSources], fmt.Sprintf("%d more", more))
	}
	return strings.Join(list, ", ")
}

// String returns the source, and whether the last look-up missed the route.
func (r Route) String() string {
	switch {
	case r.missing && r.Origin == FromName:
		return r.Source + ", missing: withdrawn unless the next look-up finds it or a flow uses it"
	case r.missing:
		return r.Source + ", missing: withdrawn unless the next look-up finds it"
	}
	return r.Source
}

// Settings are the part of the configuration that selects routes.
type Settings struct {
	Sources []Source       // ROUTER_ROUTES
	Exclude []netip.Prefix // never advertised
	// Resolver adds the address of the VPC's resolver, if no source leads to it.
	Resolver bool
	Site     *uint32 // the 4via6 site under which IPv4 routes are advertised; nil means none, 0 is a site
}

// Needs returns the AWS actions that the sources call, in the order of the kinds.
func (s Settings) Needs() []iam.Need { return needs(s.Sources) }

// NeedPlace returns the sources that need task metadata.
func (s Settings) NeedPlace() (list []Source) {
	for _, source := range s.Sources {
		if source.kind().NeedsPlace {
			list = append(list, source)
		}
	}
	return list
}

// Config describes a [Finder].
type Config struct {
	Settings
	Place *place.Finder
	// ControlURL is the control server; "" is [DefaultControl].
	ControlURL string
	// Logger receives transitions; it must not be nil.
	Logger *slog.Logger
	// LookupHost resolves names; nil asks the operating system's DNS servers, which in a
	// task are the VPC's resolver, and then TTLs are known.
	LookupHost func(ctx context.Context, host string) ([]netip.Addr, error)
}

// Finder finds the routes to advertise. It is safe for concurrent use.
type Finder struct {
	config  Config
	control controlAddrs
	names   names
}

// New returns a Finder. It looks nothing up.
func New(c Config) *Finder {
	f := &Finder{config: c}
	f.names.lookUp = dial(new(net.Dialer).DialContext).lookUp
	if c.LookupHost != nil {
		f.names.lookUp = func(ctx context.Context, host string) ([]netip.Addr, time.Duration, error) {
			addrs, err := c.LookupHost(ctx, host)
			return addrs, 0, err
		}
	}
	return f
}

// Routes looks up every source once. A running router uses a [Follower] instead.
func (f *Finder) Routes(ctx context.Context) (Routes, error) {
	found, err := f.find(ctx)
	if err != nil {
		return Routes{}, err
	}
	found, _, err = f.names.resolve(ctx, found)
	if err != nil {
		return Routes{}, err
	}
	return f.choose(ctx, found)
}

// find looks up every source. If one fails, the whole look-up fails: a partial answer would
// withdraw routes that are in use.
func (f *Finder) find(ctx context.Context) (finding, error) {
	var all finding
	for _, s := range f.config.Sources {
		found, err := s.find(ctx, f.config.Place)
		if err != nil {
			return finding{}, problem.Wrapf(err, "looking up source %s of ROUTER_ROUTES", s)
		}
		all.routes = append(all.routes, found.routes...)
		all.refused = append(all.refused, found.refused...)
		all.names = append(all.names, found.names...)
	}
	if f.config.None() {
		return all, nil
	}
	if len(all.routes) == 0 && len(all.refused) == 0 && len(all.names) == 0 {
		if len(f.config.Sources) == 0 {
			return finding{}, problem.New("set it to vpc, subnet or CIDRs", "choosing routes: ROUTER_ROUTES names no source")
		}
		return finding{}, problem.New("add one, such as vpc", "choosing routes: the sources of ROUTER_ROUTES lead to none")
	}
	all.routes = append(all.routes, f.resolverRoute(ctx, all.routes)...)
	return all, nil
}
