package main

import (
	"context"
	"net/netip"

	"subnetrouter/internal/config"
	"subnetrouter/internal/denylist"
)

// newDenyList creates the list of what the tailnet must never reach. Whatever opens a
// listener in this process adds it with [denylist.List.Opened].
func (r *router) newDenyList(cfg config.Config) (*denylist.List, error) {
	return denylist.New(denylist.Config{
		Listeners:  []string{cfg.Listen, cfg.DebugListen},
		Ports:      []uint16{cfg.UDPPort},
		Changed:    r.recheckFlows,
		Registerer: r.registry,
		Logger:     r.log,
	})
}

// keepDenyList follows the addresses of this host.
func (r *router) keepDenyList(ctx context.Context) error {
	r.deny.Run(ctx)
	return nil
}

// recheckFlows ends the flows that the deny list or the access rules no longer allow.
func (r *router) recheckFlows() { r.forward.Recheck() }

// allowsFlow asks the access rules as they are now.
func (r *router) allowsFlow(protocol uint8, client netip.Addr, dst netip.AddrPort) bool {
	node := r.node.Load()
	return node != nil && node.AllowsFlow(protocol, client, dst)
}
