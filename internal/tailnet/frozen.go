package tailnet

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"go4.org/netipx"

	"tailscale.com/net/dns"
	"tailscale.com/net/packet"
	"tailscale.com/types/logger"
	"tailscale.com/types/netmap"
	"tailscale.com/wgengine"
	"tailscale.com/wgengine/filter"
	"tailscale.com/wgengine/router"
	"tailscale.com/wgengine/wgcfg"
)

// frozenEngine keeps withdrawn routes in the data path. The backend takes a route that
// is no longer advertised out of its packet filter (and, in kernel mode, out of the
// host's configuration) at once, while clients send to it until their next netmap, 20 ms
// to 1.5 s later, and the flows of a draining router go on for longer.
//
// Only these destinations are frozen. The access rules are control's newest at any time:
// whatever the backend installs is put into force at once, and extended by the same
// rules for the frozen routes.
type frozenEngine struct {
	wgengine.Engine

	// rules are control's newest for every destination, and without memory of the
	// flows that they once allowed. nil refuses everything.
	rules atomic.Pointer[filter.Filter]
	// changed wakes the goroutine that has open flows checked again.
	changed chan struct{}

	mu      sync.Mutex // held while the filter is built and installed
	backend backend    // nil while the backend is being created
	frozen  []netip.Prefix
	latest  *filter.Filter // the backend's
	matches []filter.Match // the rules in latest
	known   bool           // there are rules, if only that nothing is allowed
}

// backend is the part of the LocalBackend from which a filter is built.
type backend interface {
	// NetMapWithPeers returns the netmap with the newest rules: a netmap whose rules
	// were updated by themselves keeps the older ones everywhere else.
	NetMapWithPeers() *netmap.NetworkMap
	PeerForIP(netip.Addr) (wgengine.PeerForIP, bool)
}

func newFrozenEngine(e wgengine.Engine) *frozenEngine {
	return &frozenEngine{Engine: e, changed: make(chan struct{}, 1)}
}

func (e *frozenEngine) attach(b backend) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.backend = b
}

// SetFilter implements [wgengine.Engine]. The backend calls it with its lock held.
func (e *frozenEngine) SetFilter(f *filter.Filter) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.latest = f
	if e.matches, e.known = e.newestRules(f); e.known {
		e.rules.Store(filter.New(e.matches, e.hasCap, everywhere, nil, nil, logger.Discard))
	} else {
		e.rules.Store(nil)
	}
	e.install()
	select {
	case e.changed <- struct{}{}:
	default:
	}
}

// Reconfig implements [wgengine.Engine].
func (e *frozenEngine) Reconfig(cfg *wgcfg.Config, host *router.Config, names *dns.Config) error {
	e.mu.Lock()
	frozen := e.frozen
	e.mu.Unlock()
	if host != nil && len(frozen) > 0 && len(host.LocalAddrs) > 0 { // without addresses, the node is going down
		extended := *host
		extended.SubnetRoutes = slices.Clone(host.SubnetRoutes)
		for _, p := range frozen {
			if !slices.Contains(extended.SubnetRoutes, p) {
				extended.SubnetRoutes = append(extended.SubnetRoutes, p)
			}
		}
		host = &extended
	}
	return e.Engine.Reconfig(cfg, host, names)
}

// freeze keeps routes among the destinations, in place of those that it kept before.
func (e *frozenEngine) freeze(routes []netip.Prefix) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if slices.Equal(routes, e.frozen) {
		return
	}
	e.frozen = slices.Clone(routes)
	e.install()
}

// install puts the backend's filter into force, extended by the frozen routes.
func (e *frozenEngine) install() {
	if e.latest == nil {
		return
	}
	if len(e.frozen) == 0 || !e.known {
		e.Engine.SetFilter(e.latest)
		return
	}
	var b netipx.IPSetBuilder
	for _, p := range e.frozen {
		b.AddPrefix(p)
	}
	routes, err := b.IPSet()
	if err != nil {
		e.Engine.SetFilter(e.latest)
		return
	}
	kept := filter.New(e.matches, e.hasCap, routes, nil, e.latest, logger.Discard)
	// A copy: others read the backend's own filter. Both share one memory of flows.
	extended := *e.latest
	extended.IngressAllowHooks = append(slices.Clip(extended.IngressAllowHooks), func(p packet.Parsed) (bool, string) {
		return kept.RunIn(&p, 0) == filter.Accept, "withdrawn route"
	})
	e.Engine.SetFilter(&extended)
}

// newestRules returns the rules that the backend built f from. It reports false for a
// filter that it did not build from rules: before the first netmap, and where the node
// takes no connections at all.
func (e *frozenEngine) newestRules(f *filter.Filter) (matches []filter.Match, ok bool) {
	if e.backend == nil || f.ShieldsUp() {
		return nil, false
	}
	nm := e.backend.NetMapWithPeers()
	if nm == nil {
		return nil, false
	}
	if allowsUnsigned(nm) {
		return nil, true // as the backend: rules that Tailnet Lock forbids count for nothing
	}
	return nm.PacketFilter, true
}

// allowsUnsigned reports whether the rules let in a node whose key Tailnet Lock has not
// signed, which an honest control server never asks for.
func allowsUnsigned(nm *netmap.NetworkMap) bool {
	var b netipx.IPSetBuilder
	found := false
	for _, p := range nm.Peers {
		if !p.UnsignedPeerAPIOnly() {
			continue
		}
		found = true
		for _, a := range p.AllowedIPs().All() {
			b.AddPrefix(a)
		}
	}
	if !found {
		return false
	}
	unsigned, err := b.IPSet()
	if err != nil {
		return true
	}
	return slices.ContainsFunc(nm.PacketFilter, func(m filter.Match) bool {
		return len(m.Dsts) > 0 && slices.ContainsFunc(m.Srcs, unsigned.OverlapsPrefix)
	})
}

// everywhere holds all addresses.
var everywhere = func() *netipx.IPSet {
	var b netipx.IPSetBuilder
	b.AddPrefix(netip.PrefixFrom(netip.IPv4Unspecified(), 0))
	b.AddPrefix(netip.PrefixFrom(netip.IPv6Unspecified(), 0))
	set, _ := b.IPSet()
	return set
}()
