package tailnet

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"tailscale.com/ipn"
	"tailscale.com/tailcfg"
	"tailscale.com/types/netmap"
)

const (
	// maxEndpoints bounds the endpoints taken of one node. A node reports one for each
	// address of its host and a few more; a node that reports more in order to hide
	// some exposes its own listeners only.
	maxEndpoints = 64
	// endpointsPause separates two looks at the netmap: in a large tailnet a look costs
	// milliseconds, and peers change all the time.
	endpointsPause = 200 * time.Millisecond
	// endpointsEvery bounds the age of what is known of this node's own endpoints,
	// changes of which are not reported.
	endpointsEvery = 10 * time.Second
)

// RouterEndpoints returns the addresses outside of the tailnet of this node and of the
// nodes that share a tag with it, which is what its peer routers do: at these, inside
// the VPC, they listen. A node without tags has no peer routers.
func (n *Node) RouterEndpoints() []netip.Addr {
	var out []netip.Addr
	if self := n.lb.StatusWithoutPeers().Self; self != nil {
		for _, text := range self.Addrs {
			if e, err := netip.ParseAddrPort(text); err == nil {
				out = append(out, e.Addr())
			}
		}
	}
	if nm := n.lb.NetMapWithPeers(); nm != nil && nm.SelfNode.Valid() {
		out = append(out, peerRouterEndpoints(nm)...)
	}
	return out
}

func peerRouterEndpoints(nm *netmap.NetworkMap) (out []netip.Addr) {
	own := nm.SelfNode.Tags().AsSlice()
	for _, p := range nm.Peers {
		if !p.Tags().ContainsFunc(func(tag string) bool { return slices.Contains(own, tag) }) {
			continue
		}
		endpoints := p.Endpoints()
		for i := range min(endpoints.Len(), maxEndpoints) {
			out = append(out, endpoints.At(i).Addr())
		}
	}
	return out
}

// WatchRouterEndpoints calls f with [Node.RouterEndpoints], now and after each change,
// until ctx ends.
func (n *Node) WatchRouterEndpoints(ctx context.Context, f func([]netip.Addr)) {
	changed := make(chan struct{}, 1)
	wake := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for ctx.Err() == nil { // the engine drops a watcher that falls behind
			n.lb.WatchNotifications(ctx, ipn.NotifyPeerChanges|ipn.NotifyPeerPatches, wake, func(note *ipn.Notify) bool {
				if changesEndpoints(note) {
					wake()
				}
				return true
			})
			pause(ctx, endpointsPause)
		}
	}()
	defer func() { <-watched }()
	tick := time.NewTicker(endpointsEvery)
	defer tick.Stop()
	for {
		f(n.RouterEndpoints())
		if !pause(ctx, endpointsPause) {
			return
		}
		select {
		case <-changed:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// changesEndpoints reports whether a notification may change what
// [Node.RouterEndpoints] returns. Most do not: peers come online and go.
func changesEndpoints(note *ipn.Notify) bool {
	return note.SelfChange != nil || len(note.PeersChanged) > 0 || len(note.PeersRemoved) > 0 ||
		slices.ContainsFunc(note.PeerChangedPatch, func(c *tailcfg.PeerChange) bool { return len(c.Endpoints) > 0 })
}

// pause waits for d. It reports false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// UDPPort returns the port that WireGuard's socket is bound to. The engine takes
// another than the configured one where that is in use.
func (n *Node) UDPPort() uint16 { return n.sys.MagicSock.Get().LocalPort() }
