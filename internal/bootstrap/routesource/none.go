package routesource

import (
	"context"
	"errors"
	"slices"

	"subnetrouter/internal/bootstrap/iam"
	"subnetrouter/internal/bootstrap/place"
)

var none = &Kind{
	Syntax:  "none",
	Help:    "no route, for a sidecar, or a router that is only an exit node, app connector or peer relay; alone",
	Example: "none",
	parse:   word(None{}),
}

// None is the absence of subnet routes. It is the only source of a configuration: see [Parse].
type None struct{}

func (None) String() string { return "none" }
func (None) kind() *Kind    { return none }

// Needs returns nothing.
func (None) Needs() []iam.Need { return nil }

func (None) find(context.Context, *place.Finder) (finding, error) { return finding{}, nil }

// None reports whether the router advertises no subnet routes on purpose.
func (s Settings) None() bool { return slices.Contains(s.Sources, Source(None{})) }

// checkNone returns an error if none is not the only source.
func checkNone(sources []Source) error {
	if len(sources) > 1 && slices.Contains(sources, Source(None{})) {
		return errors.New(`"none" excludes all other sources: remove it, or them`)
	}
	return nil
}
