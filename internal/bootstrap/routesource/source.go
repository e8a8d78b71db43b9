package routesource

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"subnetrouter/internal/bootstrap/iam"
	"subnetrouter/internal/bootstrap/place"
	"subnetrouter/internal/problem"
	"subnetrouter/internal/routes"
)

// kinds are all kinds of route sources. Parsing tries them in this order, with cidr, which
// accepts any element, last. Configuration check, help, IAM policy and dry runs derive from
// this table and from [Source].
var kinds = []*Kind{vpc, subnet, subnets, peerings, prefixList, rds, lb, host, none, cidr}

// Kind is a kind of route source, defined in a file of its own.
type Kind struct {
	Syntax string // of an element in ROUTER_ROUTES: "subnets:TAG=VALUE"
	Help   string // its meaning: a phrase that follows Syntax in parentheses
	// Example is an element of this kind, for tests.
	Example string
	// NeedsPlace reports that the source depends on the task's place in the VPC, and so
	// needs task metadata.
	NeedsPlace bool
	// parse parses an element of ROUTER_ROUTES. mine reports whether the element is of
	// this kind; only then err matters.
	parse func(element string) (s Source, mine bool, err error)
}

// Source is an element of ROUTER_ROUTES. Sources are comparable.
type Source interface {
	// String returns the source as [Parse] reads it.
	String() string
	kind() *Kind
	// Needs returns the AWS actions that find calls, in the order of the calls.
	Needs() []iam.Need
	// find looks up the source now. Finding no route where there must be one is an error,
	// and so is a failure of any part of the look-up.
	find(ctx context.Context, p *place.Finder) (finding, error)
}

// Kinds returns all kinds of route sources.
func Kinds() []*Kind { return slices.Clone(kinds) }

// KindOf returns the kind of a source.
func KindOf(s Source) *Kind { return s.kind() }

// Parse parses a comma list of sources, in the order written and each once. The error joins
// one error per malformed element, each of which shows the correct form. [None] must be alone.
func Parse(list string) ([]Source, error) {
	sources, err := routes.ParseList(list, "vpc or 10.0.0.0/16", parse)
	if err == nil {
		err = checkNone(sources)
	}
	return sources, err
}

func parse(element string) (Source, error) {
	for _, k := range kinds {
		if s, mine, err := k.parse(element); mine {
			return s, err
		}
	}
	return nil, fmt.Errorf("%q is not a route source: write %s", element, Syntaxes())
}

// word returns a parser of the one word that stands for s.
func word(s Source) func(string) (Source, bool, error) {
	return func(element string) (Source, bool, error) { return s, element == s.String(), nil }
}

// Syntaxes lists the syntax of all kinds: "vpc, subnet or a CIDR such as 10.0.0.0/16".
func Syntaxes() string {
	var list []string
	for _, k := range kinds {
		list = append(list, k.Syntax)
	}
	return problem.Choice(list)
}

// Help describes all kinds: "vpc (every CIDR associated with the VPC), …".
func Help() string {
	var list []string
	for _, k := range kinds {
		list = append(list, k.Syntax+" ("+k.Help+")")
	}
	return strings.Join(list, ", ")
}

// needs returns the AWS actions that sources call, in the order of the kinds.
func needs(sources []Source) (list []iam.Need) {
	for _, k := range kinds {
		for _, s := range sources {
			if s.kind() == k {
				list = append(list, s.Needs()...)
			}
		}
	}
	return list
}

// finding is the result of looking up sources, before routes are chosen from it.
type finding struct {
	routes  []Route
	refused []Refusal
	names   []hostName // whose addresses become routes
	notes   []string
}

// follow adds a name whose addresses become routes.
func (f *finding) follow(host, source string) {
	f.names = append(f.names, hostName{host: host, source: source})
}

func (f *finding) add(o Origin, source string, ps ...netip.Prefix) {
	for _, p := range ps {
		f.routes = append(f.routes, Route{Prefix: p.Masked(), Origin: o, Source: source})
	}
}

func (f *finding) refuse(p netip.Prefix, source, reason string) {
	f.refused = append(f.refused, Refusal{Prefix: p, Source: source, Reason: reason})
}
