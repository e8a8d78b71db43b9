package tailnet

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"subnetrouter/internal/tailnettest"

	"tailscale.com/ipn"
	"tailscale.com/tailcfg"
	"tailscale.com/types/netmap"
)

func TestPeerRouterEndpoints(t *testing.T) {
	node := func(endpoints int, at byte, tags ...string) tailcfg.NodeView {
		n := &tailcfg.Node{Tags: tags}
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
	for _, a := range peerRouterEndpoints(nm) {
		count[a.As4()[1]]++
	}
	if len(count) != 3 || count[2] != 2 || count[5] != 2 || count[6] != maxEndpoints {
		t.Errorf("endpoints by node: %v", count)
	}
	nm.SelfNode = node(1, 1)
	if got := peerRouterEndpoints(nm); len(got) != 0 {
		t.Errorf("a node without tags has the peer routers %v", got)
	}
}

func TestChangesEndpoints(t *testing.T) {
	online := true
	for name, c := range map[string]struct {
		note ipn.Notify
		want bool
	}{
		"nothing":       {ipn.Notify{}, false},
		"online":        {ipn.Notify{PeerChangedPatch: []*tailcfg.PeerChange{{Online: &online}}}, false},
		"new endpoints": {ipn.Notify{PeerChangedPatch: []*tailcfg.PeerChange{{Online: &online}, {Endpoints: make([]netip.AddrPort, 1)}}}, true},
		"a new peer":    {ipn.Notify{PeersChanged: []*tailcfg.Node{{}}}, true},
		"a peer gone":   {ipn.Notify{PeersRemoved: []tailcfg.NodeID{1}}, true},
		"new tags":      {ipn.Notify{SelfChange: &tailcfg.Node{}}, true},
	} {
		if got := changesEndpoints(&c.note); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// TestWatchRouterEndpoints has a peer router, and a node without the tag, come and go.
func TestWatchRouterEndpoints(t *testing.T) {
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
		edge.WatchRouterEndpoints(ctx, func(a []netip.Addr) { seen <- len(a) })
	}()
	defer func() { cancel(); <-done }()
	// The peer's endpoints are those that control has of the node with the tag.
	await := func(what string, routers ...string) {
		t.Helper()
		deadline := time.After(patience)
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
				t.Fatalf("waited %v for %s", patience, what)
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
