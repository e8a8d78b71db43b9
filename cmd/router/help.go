package main

import (
	"context"
	"net/netip"
	"slices"

	"subnetrouter/internal/forward"
	"subnetrouter/internal/handover"
	"subnetrouter/internal/tailnet"
)

// newRelay connects the part that talks to other routers with the node and the data
// path, which both come after it.
func (r *router) newRelay() *handover.Coordinator {
	return handover.New(handover.Config{
		Routes:   r.mayServe,
		Healthy:  func() bool { return len(r.prober.Failing()) == 0 },
		MaxDrain: r.cfg.DrainTimeout,
		CanRelay: func() bool {
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
		Deliver: func(packet []byte) handover.Outcome {
			switch r.forward.DeliverRelayed(packet) {
			case forward.RelayedTaken:
				return handover.Delivered
			case forward.RelayedUnknown:
				return handover.Unknown
			case forward.RelayedReset:
				return handover.Reset
			}
			return handover.Refused
		},
		DeliverUnclaimed: func(packet []byte) { r.forward.DeliverUnclaimed(packet) },
		SendToClient: func(packet []byte) {
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

// watchTagged passes on which nodes share a tag with this one, and so may be peer routers.
func (r *router) watchTagged(ctx context.Context) error {
	r.node.Load().WatchTagged(ctx, r.setTagged)
	return nil
}

func (r *router) setTagged(t tailnet.Tagged) {
	nodes := make([]handover.Node, len(t.Peers))
	endpoints := t.Endpoints
	for i, p := range t.Peers {
		nodes[i] = handover.Node{Name: p.Name, Addrs: p.Addrs, Routes: p.Routes, Online: p.Online}
		endpoints = append(endpoints, p.Endpoints...)
	}
	r.relay.SetPeers(t.Routes, nodes)
	r.deny.OpenedPort(t.UDPPort)
	r.deny.SetPeers(endpoints)
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
