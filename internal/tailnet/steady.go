package tailnet

import (
	"slices"
	"sync"

	"tailscale.com/net/dns"
	"tailscale.com/wgengine"
	"tailscale.com/wgengine/filter"
	"tailscale.com/wgengine/router"
	"tailscale.com/wgengine/wgcfg"
)

// steadyEngine keeps the data path as it is while the routes are withdrawn. The
// backend takes a route that is no longer advertised out of its packet filter (and,
// in kernel mode, out of the host's configuration) at once, while clients send to it
// until their next netmap: 20 ms to 1.5 s later. What is held here is let go when
// routes are advertised again; a change of the tailnet's access rules waits until
// then, or for the exit.
type steadyEngine struct {
	wgengine.Engine

	mu      sync.Mutex
	held    bool
	filter  *filter.Filter // the backend's latest, while held
	applied *router.Config // the last before that
}

// SetFilter implements [wgengine.Engine].
func (e *steadyEngine) SetFilter(f *filter.Filter) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.held {
		e.filter = f
		return
	}
	e.Engine.SetFilter(f)
}

// Reconfig implements [wgengine.Engine].
func (e *steadyEngine) Reconfig(cfg *wgcfg.Config, host *router.Config, names *dns.Config) error {
	e.mu.Lock()
	switch {
	case host == nil:
	case e.held && e.applied != nil && len(host.LocalAddrs) > 0: // without addresses, the node is going down
		same := *host
		same.SubnetRoutes = slices.Clone(e.applied.SubnetRoutes)
		host = &same
	default:
		e.applied = host.Clone()
	}
	e.mu.Unlock()
	return e.Engine.Reconfig(cfg, host, names)
}

// hold keeps what is in force now.
func (e *steadyEngine) hold() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.held = true
}

// letGo puts into force what came while it held.
func (e *steadyEngine) letGo() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.held = false; e.filter != nil {
		e.Engine.SetFilter(e.filter)
		e.filter = nil
	}
}
