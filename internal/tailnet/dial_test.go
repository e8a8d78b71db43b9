package tailnet

import (
	"errors"
	"net/netip"
	"testing"

	"tailscale.com/tailcfg"
	"tailscale.com/wgengine"
)

// TestDialTargets: only other nodes are targets, and addresses in routes that this node has accepted and does not
// advertise itself.
func TestDialTargets(t *testing.T) {
	node := &tailcfg.Node{Name: "db.example.ts.net.", Addresses: []netip.Prefix{netip.MustParsePrefix("100.64.0.9/32"), netip.MustParsePrefix("fd7a:115c:a1e0::9/128")}}
	own := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}
	for _, c := range []struct {
		name         string
		addr, route  string // "" for none
		self, accept bool
		ok           bool
	}{
		{"a node", "100.64.0.9", "100.64.0.9/32", false, false, true},
		{"a node's IPv6 address", "fd7a:115c:a1e0::9", "fd7a:115c:a1e0::9/128", false, false, true},
		{"no node", "100.64.0.10", "", false, true, false},
		{"MagicDNS's address", "100.100.100.100", "", false, true, false},
		{"this node", "100.64.0.9", "100.64.0.9/32", true, true, false},
		{"another router's route", "10.9.0.5", "10.9.0.0/16", false, true, true},
		{"another router's 4via6 route", "fd7a:115c:a1e0:b1a:0:7:a09:5", "fd7a:115c:a1e0:b1a:0:7:a09:0/112", false, true, true},
		{"another router's route, not accepted", "10.9.0.5", "10.9.0.0/16", false, false, false},
		{"an own route by way of a peer router", "10.0.3.4", "10.0.0.0/16", false, true, false},
		{"a part of an own route", "10.0.3.4", "10.0.3.0/24", false, true, false},
		{"a route that contains an own one", "10.0.3.4", "10.0.0.0/8", false, true, false},
		{"an exit node", "192.0.2.1", "0.0.0.0/0", false, true, false},
	} {
		p := wgengine.PeerForIP{Node: node.View(), IsSelf: c.self}
		if c.route != "" {
			p.Route = netip.MustParsePrefix(c.route)
		}
		err := judgeTarget("tcp", netip.AddrPortFrom(netip.MustParseAddr(c.addr), 80), p, c.route != "", own, c.accept)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrNotInTailnet) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestDialBeforeRoutesAreKnown: until the first look-up, any other router's route may be one of this router's VPC. Nodes are
// targets before, and a router without routes has none to spare.
func TestDialBeforeRoutesAreKnown(t *testing.T) {
	node := &tailcfg.Node{Name: "router.example.ts.net.", Addresses: []netip.Prefix{netip.MustParsePrefix("100.64.0.9/32")}}
	n := &Node{routesChanged: make(chan struct{}, 1)}
	may := func(target, route string) error {
		return judgeTarget("tcp", netip.MustParseAddrPort(target), wgengine.PeerForIP{Node: node.View(), Route: netip.MustParsePrefix(route)}, true, n.desired, true)
	}
	if err := may("10.0.3.4:80", "10.0.0.0/16"); !errors.Is(err, ErrNotInTailnet) {
		t.Errorf("a route before the first look-up: %v", err)
	}
	if err := may("100.64.0.9:80", "100.64.0.9/32"); err != nil {
		t.Errorf("a node before the first look-up: %v", err)
	}
	n.Advertise(nil)
	if err := may("10.0.3.4:80", "10.0.0.0/16"); err != nil {
		t.Errorf("a route of another router, for one without routes: %v", err)
	}
}

// TestDialReachesNoHandover: programs reach the hand-over of no router, which takes a datagram for one of the router
// whose address it has. It is at nodes, and UDP only.
func TestDialReachesNoHandover(t *testing.T) {
	node := &tailcfg.Node{Name: "router.example.ts.net.", Addresses: []netip.Prefix{netip.MustParsePrefix("100.64.0.9/32")}}
	for _, c := range []struct {
		network, addr, route string
		port                 uint16
		ok                   bool
	}{
		{"udp", "100.64.0.9", "100.64.0.9/32", HandoverPort, false},
		{"udp", "100.64.0.9", "100.64.0.9/32", HandoverPort + 1, true},
		{"tcp", "100.64.0.9", "100.64.0.9/32", HandoverPort, true},
		{"udp", "10.9.0.5", "10.9.0.0/16", HandoverPort, true},
	} {
		p := wgengine.PeerForIP{Node: node.View(), Route: netip.MustParsePrefix(c.route)}
		err := judgeTarget(c.network, netip.AddrPortFrom(netip.MustParseAddr(c.addr), c.port), p, true, []netip.Prefix{}, true)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrNotInTailnet) {
			t.Errorf("%s to %s:%d: %v", c.network, c.addr, c.port, err)
		}
	}
}
