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

// controlLookup bounds the look-up of the control server's addresses, so that routes do not
// wait for it longer.
const controlLookup = 2 * time.Second

// DefaultControl is Tailscale's control server, on public addresses.
const DefaultControl = "https://controlplane.tailscale.com"

// withoutControl removes prefixes that contain an address of the control server. Such a
// route would direct clients' connections to control through the router, which itself
// reaches control outside the tailnet: a failure there would disconnect the clients, too.
//
// A private address of the control server, or one in the VPC, only causes a note: clients
// use the router to reach that VPC, and Tailscale's own traffic to control bypasses the
// routes that it installs.
func (f *Finder) withoutControl(ctx context.Context, ps []netip.Prefix, r *Routes) []netip.Prefix {
	if f.config.Site != nil { // clients do not reach control by a 4via6 address
		return ps
	}
	return slices.DeleteFunc(ps, func(p netip.Prefix) bool {
		named := !followed(p, r.Explain)
		if f.config.ControlURL == "" && (!named || !reachesPublic(p)) {
			return false // Tailscale's control server is not in a VPC
		}
		for _, a := range f.controlAddrs(ctx) {
			if !p.Contains(a) {
				continue
			}
			if a.IsPrivate() || !named {
				r.Notes = append(r.Notes, fmt.Sprintf("%s contains %s of the control server: clients need a way to it outside the tailnet, or they cannot join", p, a))
				continue
			}
			r.Refused = append(r.Refused, Refusal{p, r.SourceOf(p),
				fmt.Sprintf("it contains %s, on the router's own path to its control server; put that into ROUTER_EXCLUDE_ROUTES to advertise the rest", a)})
			return true
		}
		return false
	})
}

// reachesPublic reports whether p may contain public addresses.
func reachesPublic(p netip.Prefix) bool {
	for _, private := range privateRanges {
		if routes.Covers(private, p) {
			return false
		}
	}
	return true
}

// privateRanges are the ranges of netip.Addr.IsPrivate.
var privateRanges = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("fc00::/7"),
}

// followed reports whether p overlaps a route that AWS reports for the VPC or a connected
// network, so that it is not only the operator's or a prefix list's.
func followed(p netip.Prefix, found []Route) bool {
	return slices.ContainsFunc(found, func(r Route) bool {
		return r.Prefix.Overlaps(p) && r.Origin == FromAWS
	})
}

// controlAddrs are the addresses of the control server as last resolved.
type controlAddrs struct {
	mu    sync.Mutex   // covers the fields below; held during a look-up, so for at most controlLookup
	asked time.Time    // of the last look-up, failed ones included
	addrs []netip.Addr // of the last successful one
}

// controlAddrs resolves the control server's name, at most once for each choice
// of routes. If that fails, it returns the last answer.
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
