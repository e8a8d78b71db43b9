package bootstrap

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"subnetrouter/internal/routes"
)

// controlLookup bounds the look-up of the control server's addresses, which
// never holds up the routes.
const controlLookup = 2 * time.Second

// DefaultControl is Tailscale's control server, on public addresses.
const DefaultControl = "https://controlplane.tailscale.com"

// besidesControl drops prefixes that hold an address of the control server.
// Such a route would lead clients' way to control through the router, whose
// own way to it leads past the tailnet: where that one fails, both do.
//
// A control server inside the VPC is another matter. Its VPC is what the router
// is for, and Tailscale's own traffic to control bypasses the routes it
// installs; a note says what clients need.
func (b *Bootstrap) besidesControl(ctx context.Context, ps []netip.Prefix, r *Routes) []netip.Prefix {
	if b.config.Site != nil { // nobody reaches control by a 4via6 address
		return ps
	}
	return slices.DeleteFunc(ps, func(p netip.Prefix) bool {
		named := !followed(p, r.Explain)
		if b.config.ControlURL == "" && (!named || !reachesPublic(p)) {
			return false // Tailscale's control server is in no VPC
		}
		for _, a := range b.controlAddrs(ctx) {
			if !p.Contains(a) {
				continue
			}
			if a.IsPrivate() || !named {
				r.Notes = append(r.Notes, fmt.Sprintf("%s holds %s of the control server: clients need a way to it outside the tailnet, or they cannot join", p, a))
				continue
			}
			r.Refused = append(r.Refused, Refusal{p, r.SourceOf(p),
				fmt.Sprintf("it holds %s, on the router's own path to its control server; put that into ROUTER_EXCLUDE_ROUTES to advertise the rest", a)})
			return true
		}
		return false
	})
}

// reachesPublic reports whether p may hold public addresses.
func reachesPublic(p netip.Prefix) bool {
	for _, private := range privateRanges {
		if routes.Covers(private, p) {
			return false
		}
	}
	return true
}

// As netip.Addr.IsPrivate has them.
var privateRanges = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("fc00::/7"),
}

// followed reports whether p is of the VPC or a neighbour, and not named by the
// operator or in a prefix list.
func followed(p netip.Prefix, found []Route) bool {
	return slices.ContainsFunc(found, func(r Route) bool {
		return r.Prefix.Overlaps(p) && r.Kind != routes.Static && r.Kind != routes.PrefixList
	})
}

// controlAddrs resolves the control server's name, once for each choice of
// routes at most. Where that fails, the last answer counts.
func (b *Bootstrap) controlAddrs(ctx context.Context) []netip.Addr {
	u, err := url.Parse(b.config.ControlURL)
	if b.config.ControlURL == "" {
		u, err = url.Parse(DefaultControl)
	}
	if err != nil {
		return nil
	}
	if a, err := netip.ParseAddr(u.Hostname()); err == nil {
		return []netip.Addr{a.Unmap()}
	}
	b.control.Lock()
	defer b.control.Unlock()
	if time.Since(b.control.asked) < controlLookup {
		return b.control.addrs
	}
	ctx, cancel := context.WithTimeout(ctx, controlLookup)
	defer cancel()
	addrs, err := b.config.lookupHost(ctx, u.Hostname())
	b.control.asked = time.Now()
	if err != nil {
		b.log.Debug("resolving the control server failed", "host", u.Hostname(), "err", err)
		return b.control.addrs
	}
	for i, a := range addrs {
		addrs[i] = a.Unmap()
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	b.control.addrs = addrs
	return addrs
}

func (c Config) lookupHost(ctx context.Context, host string) ([]netip.Addr, error) {
	if c.LookupHost != nil {
		return c.LookupHost(ctx, host)
	}
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}
