package routesource

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"time"

	"subnetrouter/internal/routes"
)

// controlLookup bounds the look-up of the control server's addresses, for which
// the routes do not wait longer.
const controlLookup = 2 * time.Second

// DefaultControl is Tailscale's control server, on public addresses.
const DefaultControl = "https://controlplane.tailscale.com"

// withoutControl drops prefixes that hold an address of the control server.
// Such a route would lead clients' connections to control through the router,
// which itself reaches control outside the tailnet: where that fails, both fail.
//
// A control server inside the VPC is different. Its VPC is what the router is for,
// and Tailscale's own traffic to control bypasses the routes that it installs; a
// note says what clients need.
func (f *Finder) withoutControl(ctx context.Context, ps []netip.Prefix, r *Routes) []netip.Prefix {
	if f.config.Site != nil { // clients do not reach control by a 4via6 address
		return ps
	}
	return slices.DeleteFunc(ps, func(p netip.Prefix) bool {
		named := !followed(p, r.Explain)
		if f.config.ControlURL == "" && (!named || !reachesPublic(p)) {
			return false // Tailscale's control server is in no VPC
		}
		for _, a := range f.controlAddrs(ctx) {
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

// followed reports whether p is of the VPC or a network next to it, and not only
// named by the operator or in a prefix list.
func followed(p netip.Prefix, found []Route) bool {
	return slices.ContainsFunc(found, func(r Route) bool {
		return r.Prefix.Overlaps(p) && r.Origin == FromAWS
	})
}

// controlAddrs are the addresses of the control server as last resolved.
type controlAddrs struct {
	mu    sync.Mutex // guards the fields below, and is held during a look-up
	asked time.Time
	addrs []netip.Addr
}

// controlAddrs resolves the control server's name, at most once for each choice
// of routes. Where that fails, it returns the last answer.
func (f *Finder) controlAddrs(ctx context.Context) []netip.Addr {
	u, err := url.Parse(f.config.ControlURL)
	if f.config.ControlURL == "" {
		u, err = url.Parse(DefaultControl)
	}
	if err != nil {
		return nil
	}
	if a, err := netip.ParseAddr(u.Hostname()); err == nil {
		return []netip.Addr{a.Unmap()}
	}
	f.control.mu.Lock()
	defer f.control.mu.Unlock()
	if time.Since(f.control.asked) < controlLookup {
		return f.control.addrs
	}
	ctx, cancel := context.WithTimeout(ctx, controlLookup)
	defer cancel()
	addrs, err := f.config.lookupHost(ctx, u.Hostname())
	f.control.asked = time.Now()
	if err != nil {
		f.config.Logger.Debug("resolving the control server failed", "host", u.Hostname(), "err", err)
		return f.control.addrs
	}
	for i, a := range addrs {
		addrs[i] = a.Unmap()
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	f.control.addrs = addrs
	return addrs
}

func (c Config) lookupHost(ctx context.Context, host string) ([]netip.Addr, error) {
	if c.LookupHost != nil {
		return c.LookupHost(ctx, host)
	}
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}
