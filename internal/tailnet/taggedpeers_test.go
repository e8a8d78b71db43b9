package tailnet

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"

	"tailscale.com/ipn"
	"tailscale.com/tailcfg"
	"tailscale.com/types/netmap"
)

func TestTaggedPeers(t *testing.T) {
	route := netip.MustParsePrefix("10.0.0.0/16")
	node := func(endpoints int, at byte, tags ...string) tailcfg.NodeView {
		own := netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, 0, at}), 32)
		n := &tailcfg.Node{ID: tailcfg.NodeID(at), Tags: tags, Addresses: []netip.Prefix{own}, AllowedIPs: []netip.Prefix{own, route}}
		for i := range endpoints {
			n.Endpoints = append(n.Endpoints, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, at, 0, byte(i)}), 41641))
		}
		return n.View()
	}
	nm := &netmap.NetworkMap{
		SelfNode: node(1, 1, "tag:a", testTag),
		Peers:    []tailcfg.NodeView{node(2, 2, testTag), node(2, 3, "tag:laptop"), node(2, 4), node(2, 5, "tag:other", "tag:a"), node(200, 6, testTag)},
	}
	count := map[byte]int{}
	for _, p := range taggedIn(nm).Peers {
		count[p.Addrs[0].As4()[3]] = len(p.Endpoints)
		if !slices.Equal(p.Routes, []netip.Prefix{route}) {
			t.Errorf("routes of %v: %v", p.Addrs, p.Routes)
		}
	}
	if !maps.Equal(count, map[byte]int{2: 2, 5: 2, 6: maxEndpoints}) {
		t.Errorf("endpoints by node: %v", count)
	}
	nm.SelfNode = node(1, 1)
	if got := taggedIn(nm).Peers; len(got) != 0 {
		t.Errorf("a node without tags has the tagged peers %v", got)
	}
}

func TestConcernsTaggedPeers(t *testing.T) {
	online := true
	ids := &taggedIDs{tags: []string{testTag}, nodes: map[tailcfg.NodeID]bool{1: true}}
	for name, c := range map[string]struct {
		note ipn.Notify
		want bool
	}{
		"nothing":               {ipn.Notify{}, false},
		"another node online":   {ipn.Notify{PeerChangedPatch: []*tailcfg.PeerChange{{NodeID: 2, Online: &online}}}, false},
		"another node moves":    {ipn.Notify{PeerChangedPatch: []*tailcfg.PeerChange{{NodeID: 2, Endpoints: make([]netip.AddrPort, 1)}}}, false},
		"a tagged peer online":  {ipn.Notify{PeerChangedPatch: []*tailcfg.PeerChange{{NodeID: 2}, {NodeID: 1, Online: &online}}}, true},
		"a tagged peer moves":   {ipn.Notify{PeerChangedPatch: []*tailcfg.PeerChange{{NodeID: 1, Endpoints: make([]netip.AddrPort, 1)}}}, true},
		"a new node":            {ipn.Notify{PeersChanged: []*tailcfg.Node{{ID: 3}}}, false},
		"a new tagged peer":     {ipn.Notify{PeersChanged: []*tailcfg.Node{{ID: 3, Tags: []string{testTag}}}}, true},
		"a peer loses its tag":  {ipn.Notify{PeersChanged: []*tailcfg.Node{{ID: 1}}}, true},
		"another node gone":     {ipn.Notify{PeersRemoved: []tailcfg.NodeID{2}}, false},
		"a tagged peer gone":    {ipn.Notify{PeersRemoved: []tailcfg.NodeID{1}}, true},
		"new tags of this node": {ipn.Notify{SelfChange: &tailcfg.Node{}}, true},
	} {
		if got := ids.concernedBy(&c.note); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// TestWatchTagged has a peer router, and a node without the tag, come and go.
func TestWatchTagged(t *testing.T) {
	control := startTailnet(t, nil)
	key, err := control.CreateKey(t.Context(), tailnettest.Key{Reusable: true, Ephemeral: true, Tags: []string{"tag:laptop"}})
	if err != nil {
		t.Fatal(err)
	}
	edge := startNode(t, control, give(testKey), nil)
	awaitStatus(t, edge, "the first router", func(s *Status) bool { return s.Running() })
	ctx, cancel := context.WithCancel(t.Context())
	seen := make(chan int, 1000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		edge.WatchTagged(ctx, func(t Tagged) {
			n := len(t.Endpoints)
			for _, p := range t.Peers {
				n += len(p.Endpoints)
			}
			seen <- n
		})
	}()
	defer func() { cancel(); <-done }()
	// The peer's endpoints are those that control has of the node with the tag.
	await := func(what string, routers ...string) {
		t.Helper()
		deadline := time.After(testwait.Limit())
		for {
			select {
			case n := <-seen:
				nodes, _ := control.Nodes(t.Context())
				want := len(edge.lb.StatusWithoutPeers().Self.Addrs)
				own := want
				for _, name := range routers {
					peer, _ := tailnettest.Find(nodes, name)
					want += len(peer.Endpoints)
				}
				if n == want && own > 0 && (want > own || len(routers) == 0) {
					return
				}
			case <-deadline:
				t.Fatalf("waited %v for %s", testwait.Limit(), what)
			}
		}
	}
	await("this node's own endpoints")
	laptop := startNode(t, control, give(key), nil)
	awaitStatus(t, laptop, "a laptop", func(s *Status) bool { return s.Running() })
	next := startNode(t, control, give(testKey), nil)
	name := awaitStatus(t, next, "the second router", func(s *Status) bool { return s.Running() }).Name
	await("those of a peer router", name)
	closeNode(t, next)
	await("a peer router to be forgotten")
}
