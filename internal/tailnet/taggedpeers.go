package tailnet

import (
	"cmp"
	"context"
	"net/netip"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"subnetrouter/internal/backoff"

	"tailscale.com/ipn"
	"tailscale.com/tailcfg"
	"tailscale.com/types/netmap"
)

// Tagged describes this node and its tagged peers: the nodes that share a tag with it, as
// the routers of one VPC do. A node without tags belongs to a user, and has none.
type Tagged struct {
	// Endpoints are this node's addresses outside the tailnet, and UDPPort the port of
	// WireGuard's socket at them.
	Endpoints []netip.Addr
	UDPPort   uint16
	// Routes are the routes for which this node is primary.
	Routes []netip.Prefix
	Peers  []TaggedPeer // the newest first

	ids taggedIDs
}

// TaggedPeer is a node that shares a tag with this one, as control describes it in this
// node's netmap.
type TaggedPeer struct {
	Name  string
	Addrs []netip.Addr // in the tailnet, IPv4 first
	// Routes are the routes for which the node is primary: WireGuard sends packets for
	// them to it, and accepts packets from them from no other node.
	Routes []netip.Prefix
	// Endpoints are the node's addresses outside the tailnet, as it reports them.
	Endpoints []netip.Addr
	Online    bool
}

const (
	// maxEndpoints bounds the endpoints of one node. A node reports one for each
	// address of its host and a few more. A node that reports more, to hide some,
	// exposes only its own listeners.
	maxEndpoints = 64
	// taggedPause is the pause after each scan of the netmap: in a large tailnet a scan
	// takes milliseconds, and nodes change all the time. The first scan after a change,
	// for which a hand-over may wait, is not delayed.
	taggedPause = 50 * time.Millisecond
	// taggedEvery bounds the age of this node's own endpoints, whose changes are not
	// reported, and of changes that the engine reports in an unknown way.
	taggedEvery = 10 * time.Second
)

// WatchTagged calls f with the tagged peers at once and after each change, until ctx ends.
// It scans the netmap only after a notification about this node or a node with its tags. f
// is called on the caller's goroutine.
func (n *Node) WatchTagged(ctx context.Context, f func(Tagged)) {
	var known atomic.Pointer[taggedIDs]
	known.Store(new(taggedIDs))
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
				if known.Load().concernedBy(note) {
					wake()
				}
				return true
			})
			backoff.Sleep(ctx, taggedPause)
		}
	}()
	defer func() { <-watched }()
	tick := time.NewTicker(taggedEvery)
	defer tick.Stop()
	for first, last := true, (Tagged{}); ; first = false {
		now := n.Tagged()
		known.Store(&now.ids)
		if first || !reflect.DeepEqual(now, last) {
			last = now
			f(now)
		}
		if !backoff.Sleep(ctx, taggedPause) {
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

// Tagged returns the tagged peers. It takes time in proportion to the size of the tailnet.
func (n *Node) Tagged() Tagged {
	var out Tagged
	if nm := n.lb.NetMapWithPeers(); nm != nil && nm.SelfNode.Valid() {
		out = taggedIn(nm)
	}
	out.UDPPort = n.UDPPort()
	if self := n.lb.StatusWithoutPeers().Self; self != nil {
		for _, text := range self.Addrs {
			if e, err := netip.ParseAddrPort(text); err == nil {
				out.Endpoints = append(out.Endpoints, e.Addr())
			}
		}
	}
	return out
}

// taggedIn returns the nodes of a netmap that share a tag with its self node.
func taggedIn(nm *netmap.NetworkMap) Tagged {
	out := Tagged{
		Routes: nm.SelfNode.PrimaryRoutes().AsSlice(),
		ids:    taggedIDs{tags: nm.SelfNode.Tags().AsSlice(), nodes: map[tailcfg.NodeID]bool{}},
	}
	var tagged []tailcfg.NodeView
	for _, p := range nm.Peers {
		if shareTag(p.Tags().AsSlice(), out.ids.tags) {
			out.ids.nodes[p.ID()] = true
			tagged = append(tagged, p)
		}
	}
	slices.SortFunc(tagged, func(a, b tailcfg.NodeView) int { return cmp.Compare(b.ID(), a.ID()) })
	for _, p := range tagged {
		out.Peers = append(out.Peers, taggedPeer(p))
	}
	return out
}

func taggedPeer(p tailcfg.NodeView) TaggedPeer {
	t := TaggedPeer{Name: p.ComputedName()}
	t.Online, _ = p.Online().GetOk()
	own := p.Addresses().AsSlice()
	for _, a := range own {
		t.Addrs = append(t.Addrs, a.Addr())
	}
	slices.SortFunc(t.Addrs, netip.Addr.Compare)
	for _, r := range p.AllowedIPs().All() {
		if !slices.Contains(own, r) {
			t.Routes = append(t.Routes, r)
		}
	}
	endpoints := p.Endpoints()
	for i := range min(endpoints.Len(), maxEndpoints) {
		t.Endpoints = append(t.Endpoints, endpoints.At(i).Addr())
	}
	return t
}

// taggedIDs are the tags of this node and the nodes that share one of them.
type taggedIDs struct {
	tags  []string
	nodes map[tailcfg.NodeID]bool
}

// concernedBy reports whether a notification may change the tagged peers.
func (t *taggedIDs) concernedBy(note *ipn.Notify) bool {
	return note.SelfChange != nil ||
		slices.ContainsFunc(note.PeersRemoved, func(id tailcfg.NodeID) bool { return t.nodes[id] }) ||
		slices.ContainsFunc(note.PeersChanged, func(p *tailcfg.Node) bool { return t.nodes[p.ID] || shareTag(p.Tags, t.tags) }) ||
		slices.ContainsFunc(note.PeerChangedPatch, func(p *tailcfg.PeerChange) bool {
			return t.nodes[p.NodeID] && (p.Online != nil || len(p.Endpoints) > 0)
		})
}

func shareTag(tags, own []string) bool {
	return slices.ContainsFunc(tags, func(tag string) bool { return slices.Contains(own, tag) })
}

// UDPPort returns the port of WireGuard's socket. It is not the configured one if that
// was in use.
func (n *Node) UDPPort() uint16 { return n.sys.MagicSock.Get().LocalPort() }
