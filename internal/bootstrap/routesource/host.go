package routesource

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"subnetrouter/internal/bootstrap/iam"
	"subnetrouter/internal/bootstrap/place"
)

var host = &Kind{
	Syntax:  "host:NAME",
	Help:    "the addresses of a DNS name",
	Example: "host:db.example.com",
	parse: func(s string) (Source, bool, error) {
		h, mine := strings.CutPrefix(s, "host:")
		if !mine {
			return nil, false, nil
		}
		if _, err := netip.ParseAddr(h); err == nil {
			return nil, true, fmt.Errorf("%q is an address, not a name: write a CIDR such as 10.0.0.5/32", s)
		}
		if !validName(h) {
			return nil, true, fmt.Errorf("%q has no DNS name: write host:NAME, such as host:db.example.com", s)
		}
		return Host{h}, true, nil
	},
}

// dnsName matches names of labels with letters, digits and hyphens, and numericEnd those that
// a resolver takes for addresses.
var (
	dnsName    = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*\.?$`)
	numericEnd = regexp.MustCompile(`(^|\.)[0-9]+\.?$`)
)

// maxName is the length of the longest DNS name.
const maxName = 253

func validName(s string) bool {
	return len(s) <= maxName && dnsName.MatchString(s) && !numericEnd.MatchString(s)
}

// Host is a DNS name in ROUTER_ROUTES.
type Host struct{ Name string }

func (s Host) String() string { return "host:" + s.Name }
func (Host) kind() *Kind      { return host }

// Needs returns nothing.
func (Host) Needs() []iam.Need { return nil }

func (s Host) find(context.Context, *place.Finder) (f finding, err error) {
	f.follow(s.Name, s.String())
	return f, nil
}
