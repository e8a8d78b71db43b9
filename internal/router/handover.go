package router

import (
	"context"
	"net/netip"
	"slices"

	"subnetrouter/internal/forward"
	"subnetrouter/internal/handover"
	"subnetrouter/internal/tailnet"
)

// newCoordinator connects the hand-over with the node and the data path. r.forward and
// r.prober are built after it.
func (r *Router) newCoordinator() *handover.Coordinator {
	return handover.New(handover.Config{
		Routes:   r.servableRoutes,
		Healthy:  func() bool { return len(r.prober.Failing()) == 0 },
		MaxDrain: r.cfg.DrainTimeout,
		CanRelay: func() bool {
			mode, _ := r.node.Mode()
			return mode == tailnet.ModeUserspace
		},
		Send: r.node.SendHandover,
		Deliver: func(packet []byte) handover.Outcome {
			switch r.forward.DeliverRelayed(packet) {
			case forward.RelayedTaken:
				return handover.Delivered
			case forward.RelayedUnknown:
				return handover.Unknown
			case forward.RelayedReset:
				return handover.Reset
			default:
				return handover.Refused
			}
		},
		DeliverUnclaimed: func(packet []byte) { r.forward.DeliverUnclaimed(packet) },
		SendToClient:     r.node.SendToPeer,
		Registerer:       r.registry,
		Logger:           r.log,
	})
}

// answerPeers answers the messages of peer routers until ctx ends.
func (r *Router) answerPeers(ctx context.Context) error {
	r.peers.Run(ctx)
	return nil
}

// watchTagged gives the tagged peers, which may be peer routers, to the hand-over and the
// deny list.
func (r *Router) watchTagged(ctx context.Context) error {
	r.node.WatchTagged(ctx, r.setTagged)
	return nil
}

func (r *Router) setTagged(t tailnet.Tagged) {
	nodes := make([]handover.Node, len(t.Peers))
	endpoints := t.Endpoints
	for i, p := range t.Peers {
		nodes[i] = handover.Node{Name: p.Name, Addrs: p.Addrs, Routes: p.Routes, Online: p.Online}
		endpoints = append(endpoints, p.Endpoints...)
	}
	r.peers.SetPeers(t.Routes, nodes)
	r.deny.OpenedPort(t.UDPPort)
	r.deny.SetPeers(endpoints)
}

// servableRoutes returns the routes that this router advertises and is approved for.
func (r *Router) servableRoutes() []netip.Prefix {
	s, _ := r.node.Status()
	return slices.DeleteFunc(slices.Clone(s.Advertised), func(p netip.Prefix) bool { return !slices.Contains(s.Approved, p) })
}
