package tailnet

import (
	"net/netip"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"tailscale.com/ipn"
	"tailscale.com/tailcfg"
)

// TaggedPeer is another node that shares a tag with this one, as the routers of one VPC do.
// It is as control describes it in this node's netmap.
type TaggedPeer struct {
	Name  string
	Addrs []netip.Addr // in the tailnet, IPv4 first
	// Routes are the prefixes behind the node for which control picked it: WireGuard
	// sends packets for them to it, and accepts packets from them of no other node.
	Routes []netip.Prefix
	Online bool
}

// rereadTaggedPeers bounds how long a change stays unnoticed that the engine announces in a
// way that watchTaggedPeers does not know.
const rereadTaggedPeers = 10 * time.Second

// watchTaggedPeers reports the tagged peers at each change. A tailnet of thousands of nodes
// changes all the time, and to read the netmap takes time in proportion to it, so only a
// notification that concerns this node or a node with its tags makes it do so.
func (n *Node) watchTaggedPeers() {
	var known atomic.Pointer[taggedIDs]
	known.Store(new(taggedIDs))
	changed := make(chan struct{}, 1)
	watching := make(chan struct{})
	n.wg.Go(func() {
		mask := ipn.NotifyPeerChanges | ipn.NotifyPeerPatches
		n.lb.WatchNotifications(n.ctx, mask, func() { close(watching) }, func(note *ipn.Notify) bool {
			if known.Load().concernedBy(note) {
				select {
				case changed <- struct{}{}:
				default:
				}
			}
			return true
		})
	})
	select {
	case <-watching:
	case <-n.ctx.Done():
		return
	}
	tick := time.NewTicker(rereadTaggedPeers)
	defer tick.Stop()
	var last []TaggedPeer
	for {
		now, ids := n.readTaggedPeers()
		known.Store(ids)
		if !reflect.DeepEqual(now, last) {
			last = now
			n.cfg.TaggedPeers(now)
		}
		select {
		case <-changed:
		case <-tick.C:
		case <-n.ctx.Done():
			return
		}
	}
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
		slices.ContainsFunc(note.PeerChangedPatch, func(p *tailcfg.PeerChange) bool { return t.nodes[p.NodeID] && p.Online != nil })
}

// readTaggedPeers lists them as of now. A node without tags has none: it is a user's, and
// need not be a router.
func (n *Node) readTaggedPeers() ([]TaggedPeer, *taggedIDs) {
	ids := &taggedIDs{nodes: map[tailcfg.NodeID]bool{}}
	nm := n.lb.NetMapWithPeers()
	if nm == nil || !nm.SelfNode.Valid() {
		return nil, ids
	}
	ids.tags = nm.SelfNode.Tags().AsSlice()
	var out []TaggedPeer
	for _, p := range nm.Peers {
		if shareTag(p.Tags().AsSlice(), ids.tags) {
			ids.nodes[p.ID()] = true
			out = append(out, taggedPeer(p))
		}
	}
	return out, ids
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
	return t
}

func shareTag(tags, own []string) bool {
	return slices.ContainsFunc(tags, func(tag string) bool { return slices.Contains(own, tag) })
}
