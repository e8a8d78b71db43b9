package tailnet

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"subnetrouter/internal/testwait"

	"tailscale.com/tailcfg"
)

// TestPeers exchanges packets between two nodes, and lists the peers of one.
func TestPeers(t *testing.T) {
	control := startTailnet(t, nil)
	edge := startNode(t, control, give(testKey), nil)
	asker := startNode(t, control, give(testKey), nil)
	running := func(s *Status) bool { return s.Running() }
	self := awaitStatus(t, edge, "the first node", running)
	other := awaitStatus(t, asker, "the second node", running)

	awaitPeers(t, edge, "the other in the netmap, idle", func(list []Session, count map[Path]int) bool {
		return len(list) == 0 && count[PathIdle] == 1
	})
	// The first pings may precede the netmap, and a later netmap may reset the path's state at
	// the engine until the next packet.
	ping := func() {
		try, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		asker.lb.Ping(try, self.IPs[0], tailcfg.PingTSMP, 0)
	}
	list := awaitPeers(t, edge, "a measured path", func(list []Session, count map[Path]int) bool {
		if count[PathIdle] > 0 {
			ping()
		}
		return count[PathIdle] == 0 && len(list) == 1 && list[0].Latency > 0
	})
	p := list[0]
	if p.Node != other.Name || p.IP != other.IPs[0] || !slices.Equal(p.Tags, []string{testTag}) || p.User != "" {
		t.Errorf("the peer is %+v, not %s", p, other.Name)
	}
	if p.Path == PathIdle || p.Via == "" || p.ToPeerBytes <= 0 || p.FromPeerBytes <= 0 || p.Handshake.IsZero() || time.Since(p.Measured) > testwait.Limit() {
		t.Errorf("the peer's session is %+v", p)
	}
	if none, count := edge.Peers(0); len(none) != 0 || count[PathIdle] != 0 {
		t.Errorf("at most none: %v %v", none, count)
	}
}

func awaitPeers(t *testing.T, n *Node, what string, cond func([]Session, map[Path]int) bool) []Session {
	t.Helper()
	var list []Session
	testwait.Until(t, what, func() error {
		var count map[Path]int
		if list, count = n.Peers(10); !cond(list, count) {
			return fmt.Errorf("peers %+v, counts %v", list, count)
		}
		return nil
	})
	return list
}
