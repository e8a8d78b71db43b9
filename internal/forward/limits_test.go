package forward

import (
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
)

// TestNodesAddressesShareTheirLimit: a node has an address of each family, and both count as
// one peer.
func TestNodesAddressesShareTheirLimit(t *testing.T) {
	var asked atomic.Int32
	c := newClient(t, func(cfg *Config) {
		cfg.MaxFlows, cfg.MaxFlowsPerPeer = 10, 2
		cfg.Peer = func(a netip.Addr) netip.Addr {
			asked.Add(1)
			if a == client6 {
				return client4
			}
			return a
		}
	})
	port := serveTCP(t, func(conn *net.TCPConn) { io.Copy(conn, conn); conn.Close() })
	first, second := c.mustDialTCP(targets(port)[0]), c.mustDialTCP(targets(port)[1])
	for _, to := range targets(port) {
		if _, err := c.dialTCP(to); err == nil {
			t.Errorf("%v: a third flow of one node was accepted", to)
		}
	}
	if n := asked.Load(); n > 2 {
		t.Errorf("Peer was called %d times for two addresses", n)
	}
	first.Close()
	waitFor(t, "the end of a reservation", func() bool {
		third, err := c.dialTCP(targets(port)[1])
		if err == nil {
			third.Close()
		}
		return err == nil
	})
	second.Close()
	c.noFlows()
	c.f.limits.mu.Lock()
	defer c.f.limits.mu.Unlock()
	if len(c.f.limits.peers) != 0 || c.f.limits.reserved != 0 {
		t.Errorf("%d peers and %d reservations are left", len(c.f.limits.peers), c.f.limits.reserved)
	}
}

func TestRefusedPeerIsNotKept(t *testing.T) {
	c := newClient(t, func(cfg *Config) { cfg.MaxFlows = 1 })
	if _, ok := c.f.limits.admit(client4); !ok {
		t.Fatal("the first flow was refused")
	}
	if _, ok := c.f.limits.admit(client6); ok {
		t.Fatal("the second flow was accepted")
	}
	if len(c.f.limits.peers) != 1 {
		t.Errorf("%d peers are left, want the one with a flow", len(c.f.limits.peers))
	}
}

// TestFlowsLeaveDescriptors: a configured limit does not use up the reserved descriptors.
func TestFlowsLeaveDescriptors(t *testing.T) {
	c := newClient(t, func(cfg *Config) { cfg.MaxFlows = 1 << 30 })
	l := c.f.Limit()
	if l.Files == 0 {
		t.Skip("the limit of open files is unknown here")
	}
	if want := max(1, l.Files-ReservedFiles); l.Flows != want {
		t.Errorf("%d flows with %d open files, want %d", l.Flows, l.Files, want)
	}
}
