package router

import (
	"context"

	"subnetrouter/internal/config"
	"subnetrouter/internal/denylist"
)

// newDenyList returns the list of addresses that clients must never reach. Code that opens
// a listener in this process adds it with [denylist.List.Opened].
func (r *Router) newDenyList(cfg config.Config) (*denylist.List, error) {
	return denylist.New(denylist.Config{
		Listeners:  append([]string{cfg.Listen, cfg.DebugListen}, cfg.EgressListeners()...),
		Ports:      []uint16{cfg.UDPPort, cfg.PeerRelay},
		AllPorts:   cfg.EgressAll != "",
		Changed:    r.recheckFlows,
		Registerer: r.registry,
		Logger:     r.log,
	})
}

// runDenyList keeps the deny list up to date with the addresses of this host.
func (r *Router) runDenyList(ctx context.Context) error {
	r.deny.Run(ctx)
	return nil
}

// recheckFlows ends the flows that the deny list or the access rules no longer allow.
func (r *Router) recheckFlows() { r.forward.Recheck() }
