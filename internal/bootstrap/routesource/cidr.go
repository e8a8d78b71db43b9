package routesource

import (
	"context"
	"net/netip"
	"strings"

	"subnetrouter/internal/bootstrap/iam"
	"subnetrouter/internal/bootstrap/place"
	"subnetrouter/internal/routes"
)

var cidr = &Kind{
	Syntax:  "a CIDR such as 10.0.0.0/16",
	Help:    "that prefix",
	Example: "10.0.0.0/8",
	parse: func(s string) (Source, bool, error) {
		if _, err := netip.ParseAddr(s); err != nil && !strings.Contains(s, "/") {
			return nil, false, nil
		}
		p, err := routes.ParsePrefix(s)
		if err != nil {
			return nil, true, err
		}
		return CIDR{p}, true, nil
	},
}

// CIDR is a prefix in ROUTER_ROUTES; it is masked.
type CIDR struct{ Prefix netip.Prefix }

func (s CIDR) String() string { return s.Prefix.String() }
func (CIDR) kind() *Kind      { return cidr }

// Needs returns nothing.
func (s CIDR) Needs() []iam.Need { return nil }

func (s CIDR) find(context.Context, *place.Finder) (f finding, err error) {
	f.add(FromOperator, "ROUTER_ROUTES", s.Prefix)
	return f, nil
}
