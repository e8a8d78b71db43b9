// Package routesource finds the routes to advertise: it looks up the elements of
// ROUTER_ROUTES (one file per kind of route source, all registered in kinds),
// chooses what may be advertised, and follows changes.
package routesource

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	"subnetrouter/internal/bootstrap/iam"
	"subnetrouter/internal/bootstrap/place"
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

// Route is a prefix that a source found.
type Route struct {
	Prefix netip.Prefix
	Origin Origin
	Source string // "vpc vpc-0abc (vpc-cidr-assoc-0def)", "subnet of the task", "ROUTER_ROUTES"

	missing bool // in the last look-up, and only in that
}

// Origin is where a route comes from, as far as it matters for choosing.
type Origin int

const (
	FromAWS        Origin = iota // the task's VPC and the networks next to it, which the router is for
	FromOperator                 // written in ROUTER_ROUTES; advertised as it is
	FromPrefixList               // an entry of a prefix list, of which there may be a thousand; merged with others
)

// Refusal is a found prefix that is not advertised.
type Refusal struct {
	Prefix netip.Prefix
	Source string
	Reason string
}

// SourceOf returns the source of an advertised prefix: several sources, where one
// prefix holds another or entries of a list were merged.
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

// String returns the source, and whether AWS still knows the route.
func (r Route) String() string {
	if r.missing {
		return r.Source + ", missing: withdrawn unless the next look-up finds it"
	}
	return r.Source
}

// Settings are the part of the configuration that says what to advertise.
type Settings struct {
	Sources []Source       // ROUTER_ROUTES
	Exclude []netip.Prefix // never advertised
	Site    *uint32        // the 4via6 site under which IPv4 routes are advertised; nil is none, 0 is a site
}

// Needs returns what the sources need of AWS, in the order of the kinds.
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
	// Logger gets transitions; it must not be nil.
	Logger *slog.Logger
	// LookupHost resolves names; nil asks the operating system.
	LookupHost func(ctx context.Context, host string) ([]netip.Addr, error)
}

// Finder finds the routes to advertise. It is safe for concurrent use.
type Finder struct {
	config  Config
	control controlAddrs
}

// New returns a Finder. It looks nothing up.
func New(c Config) *Finder { return &Finder{config: c} }

// Routes looks every source up once. For as long as a router runs, a
// [Follower] does so instead.
func (f *Finder) Routes(ctx context.Context) (Routes, error) {
	found, err := f.find(ctx)
	if err != nil {
		return Routes{}, err
	}
	return f.choose(ctx, found)
}

// find looks every source up. If one fails, the whole look-up fails: part of
// an answer would withdraw routes that are in use.
func (f *Finder) find(ctx context.Context) (finding, error) {
	var all finding
	for _, s := range f.config.Sources {
		found, err := s.find(ctx, f.config.Place)
		if err != nil {
			return finding{}, problem.Wrapf(err, "looking up source %s of ROUTER_ROUTES", s)
		}
		all.routes = append(all.routes, found.routes...)
		all.refused = append(all.refused, found.refused...)
	}
	if len(all.routes) == 0 && len(all.refused) == 0 {
		if len(f.config.Sources) == 0 {
			return finding{}, problem.New("set it to vpc, subnet or CIDRs", "choosing routes: ROUTER_ROUTES names no source")
		}
		return finding{}, problem.New("add one, such as vpc", "choosing routes: the sources of ROUTER_ROUTES lead to none")
	}
	return all, nil
}
