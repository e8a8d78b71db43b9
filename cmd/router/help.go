package main

import (
	"context"
	"net/netip"
	"slices"

	"subnetrouter/internal/handover"
	"subnetrouter/internal/tailnet"
)

// newRelay connects the part that talks to other routers with the node and the data
// path, which both come after it.
func (r *router) newRelay() *handover.Relay {
	return handover.New(handover.Config{
		Companions: r.companions,
		Routes:     r.mayServe,
		Healthy:    func() bool { return len(r.prober.Failing()) == 0 },
		Relays: func() bool {
			node := r.node.Load()
			if node == nil {
				return false
			}
			mode, _ := node.Mode()
			return mode == tailnet.ModeUserspace
		},
		Send: func(to netip.Addr, message []byte) {
			if node := r.node.Load(); node != nil {
				node.SendHandover(to, message)
			}
		},
		ToFlow:    func(packet []byte) bool { return r.forward.DeliverKnown(packet) },
		Unclaimed: func(packet []byte) { r.forward.DeliverUnclaimed(packet) },
		ToClient: func(packet []byte) {
			if node := r.node.Load(); node != nil {
				node.SendToPeer(packet)
			}
		},
		Registerer: r.registry,
		Logger:     r.log,
	})
}

// help answers other routers.
func (r *router) help(ctx context.Context) error {
	r.relay.Run(ctx)
	return nil
}

func (r *router) companions() []handover.Companion {
	node := r.node.Load()
	if node == nil {
		return nil
	}
	var out []handover.Companion
	for _, c := range node.Companions() {
		if c.Online && len(c.Addrs) > 0 {
			out = append(out, handover.Companion{Name: c.Name, Addrs: c.Addrs, Primary: c.Primary})
		}
	}
	return out
}

// mayServe lists the routes that this router offers and may serve.
func (r *router) mayServe() []netip.Prefix {
	node := r.node.Load()
	if node == nil {
		return nil
	}
	s, _ := node.Status()
	return slices.DeleteFunc(slices.Clone(s.Advertised), func(p netip.Prefix) bool { return !slices.Contains(s.Approved, p) })
}
