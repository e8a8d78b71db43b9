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

// frozenEngine is an engine that keeps the destinations of frozen routes in the packet
// filter. When a route is no longer advertised, the backend removes it from its packet
// filter (and, in kernel mode, from the host's configuration) at once, while clients send
// to it until their next netmap, 20 ms to 1.5 s later, and flows of a draining router
// continue for longer.
//
// Only destinations are frozen. The access rules are always control's newest: each filter
// of the backend is installed at once, together with its rules for the frozen routes.
//
// frozen is empty, or the routes of the last call of freeze. The announce goroutine
// freezes routes before the backend removes them, and unfreezes them after the backend
// has them again. The routes of a draining router stay frozen until the process ends.
//
// Lock order: LocalBackend's lock, then mu, then the locks of the wrapped engine and of the
// netmap. The backend calls SetFilter and Reconfig with its lock held. So nothing may call a
// method of LocalBackend that takes its lock while it holds mu.
type frozenEngine struct {
	wgengine.Engine

	// rules are control's newest rules for all destinations, as a filter that keeps no
	// state of flows. nil refuses everything.
	rules atomic.Pointer[filter.Filter]
	// rulesVersion grows after each change of rules.
	rulesVersion atomic.Uint64
	// rulesChanged has an element if rules have been stored since watchRules last
	// received from it. Its capacity is 1.
	rulesChanged chan struct{}

	// backend is nil while the backend is being created, and set once, by attach, before
	// the backend stores rules. So it is read without mu where rules is not nil.
	backend backend

	// withoutPeerAPI keeps the backend from opening a peer API. It is set before the backend exists.
	withoutPeerAPI bool

	// mu covers the fields below. It is held while a filter is built and installed, so
	// that filters of SetFilter and freeze are installed in order.
	mu            sync.Mutex
	frozen        []netip.Prefix
	backendFilter *filter.Filter // the argument of the last SetFilter
	backendRules  []filter.Match // the rules of backendFilter
	haveRules     bool           // backendRules is valid, and may be empty
}

// backend is the part of LocalBackend that a filter is built from. Neither method takes
// LocalBackend's lock.
type backend interface {
	// NetMapWithPeers returns the netmap with the newest rules. Other netmaps lack
	// updates of the rules that came without a netmap.
	NetMapWithPeers() *netmap.NetworkMap
	PeerForIP(netip.Addr) (wgengine.PeerForIP, bool)
}

func newFrozenEngine(e wgengine.Engine) *frozenEngine {
	return &frozenEngine{Engine: e, rulesChanged: make(chan struct{}, 1)}
}

// attach sets the backend, after it has been created.
func (e *frozenEngine) attach(b backend) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.backend = b
}

// SetFilter implements [wgengine.Engine].
func (e *frozenEngine) SetFilter(f *filter.Filter) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.backendFilter = f
	if e.backendRules, e.haveRules = e.newestRules(f); e.haveRules {
		e.rules.Store(filter.New(e.backendRules, e.hasCap, allAddrs, nil, nil, logger.Discard))
	} else {
		e.rules.Store(nil)
	}
	e.rulesVersion.Add(1)
	e.install()
	select {
	case e.rulesChanged <- struct{}{}:
	default:
	}
}

// Reconfig implements [wgengine.Engine]. It keeps frozen routes in the host's configuration.
// Without a peer API it reports that nothing has changed: the backend opens the peer API's
// listeners, and does nothing else, after each change.
func (e *frozenEngine) Reconfig(cfg *wgcfg.Config, host *router.Config, names *dns.Config) error {
	e.mu.Lock()
	frozen := e.frozen
	e.mu.Unlock()
	if host != nil && len(frozen) > 0 && len(host.LocalAddrs) > 0 { // no addresses: the node is going down
		extended := *host
		extended.SubnetRoutes = slices.Clone(host.SubnetRoutes)
		for _, p := range frozen {
			if !slices.Contains(extended.SubnetRoutes, p) {
				extended.SubnetRoutes = append(extended.SubnetRoutes, p)
			}
		}
		host = &extended
	}
	err := e.Engine.Reconfig(cfg, host, names)
	if err == nil && e.withoutPeerAPI {
		return wgengine.ErrNoChanges
	}
	return err
}

// freeze replaces the frozen routes, and reinstalls the filter.
func (e *frozenEngine) freeze(routes []netip.Prefix) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if slices.Equal(routes, e.frozen) {
		return
	}
	e.frozen = slices.Clone(routes)
	e.install()
}

// install installs the backend's filter, extended by the frozen routes. The caller holds
// e.mu.
func (e *frozenEngine) install() {
	if e.backendFilter == nil {
		return
	}
	if len(e.frozen) == 0 || !e.haveRules {
		e.Engine.SetFilter(e.backendFilter)
		return
	}
	var b netipx.IPSetBuilder
	for _, p := range e.frozen {
		b.AddPrefix(p)
	}
	routes, err := b.IPSet()
	if err != nil {
		e.Engine.SetFilter(e.backendFilter)
		return
	}
	kept := filter.New(e.backendRules, e.hasCap, routes, nil, e.backendFilter, logger.Discard)
	// A copy, since the backend's own filter is in use. Both share the state of flows.
	extended := *e.backendFilter
	extended.IngressAllowHooks = append(slices.Clip(extended.IngressAllowHooks), func(p packet.Parsed) (bool, string) {
		return kept.RunIn(&p, 0) == filter.Accept, "withdrawn route"
	})
	e.Engine.SetFilter(&extended)
}

// newestRules returns the rules that the backend built f from. It reports false if the
// backend did not build f from rules: before the first netmap, and with shields up. The
// caller holds e.mu.
func (e *frozenEngine) newestRules(f *filter.Filter) (matches []filter.Match, ok bool) {
	if e.backend == nil || f.ShieldsUp() {
		return nil, false
	}
	nm := e.backend.NetMapWithPeers()
	if nm == nil {
		return nil, false
	}
	if allowsUnsigned(nm) {
		return nil, true // like the backend, ignore rules that Tailnet Lock forbids
	}
	return nm.PacketFilter, true
}

// allowsUnsigned reports whether the rules admit a node whose key is not signed under
// Tailnet Lock, which rules of an honest control server never do.
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
var allAddrs = func() *netipx.IPSet {
	var b netipx.IPSetBuilder
	b.AddPrefix(netip.PrefixFrom(netip.IPv4Unspecified(), 0))
	b.AddPrefix(netip.PrefixFrom(netip.IPv6Unspecified(), 0))
	set, _ := b.IPSet()
	return set
}()
