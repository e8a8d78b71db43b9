package tailnet

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"

	"tailscale.com/ipn"
	"tailscale.com/net/packet"
	"tailscale.com/tailcfg"
	"tailscale.com/types/ipproto"
	"tailscale.com/types/netmap"
	"tailscale.com/wgengine"
	"tailscale.com/wgengine/filter"
	"tailscale.com/wgengine/router"
	"tailscale.com/wgengine/wgcfg"

	"go4.org/netipx"

	"tailscale.com/net/dns"
	"tailscale.com/types/logger"
	"tailscale.com/types/views"
)

// fakeEngine is the engine that a frozenEngine wraps.
type fakeEngine struct {
	wgengine.Engine
	mu     sync.Mutex
	filter *filter.Filter
	host   *router.Config
}

func (e *fakeEngine) SetFilter(f *filter.Filter) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.filter = f
}

func (e *fakeEngine) Reconfig(_ *wgcfg.Config, host *router.Config, _ *dns.Config) error {
	e.host = host
	return nil
}

func (e *fakeEngine) accepts(dst string, port uint16) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.filter.CheckTCP(netip.MustParseAddr(laptop), netip.MustParseAddr(dst), port) == filter.Accept
}

const laptop = "100.64.0.9"

// fakeBackend builds filters as the LocalBackend does.
type fakeBackend struct {
	nm         *netmap.NetworkMap
	advertised []netip.Prefix
	engine     *frozenEngine
	last       *filter.Filter
}

func (b *fakeBackend) NetMapWithPeers() *netmap.NetworkMap { return b.nm }
func (b *fakeBackend) PeerForIP(ip netip.Addr) (wgengine.PeerForIP, bool) {
	for _, p := range b.nm.Peers {
		if p.AllowedIPs().ContainsFunc(func(a netip.Prefix) bool { return a.Contains(ip) }) {
			return wgengine.PeerForIP{Node: p}, true
		}
	}
	return wgengine.PeerForIP{}, false
}

// update does the work of LocalBackend.updateFilterLocked.
func (b *fakeBackend) update() {
	if b.nm == nil {
		b.engine.SetFilter(filter.NewAllowNone(logger.Discard, new(netipx.IPSet)))
		return
	}
	var local netipx.IPSetBuilder
	for _, p := range b.advertised {
		local.AddPrefix(p)
	}
	set, _ := local.IPSet()
	b.last = filter.New(b.nm.PacketFilter, nil, set, set, b.last, logger.Discard)
	b.engine.SetFilter(b.last)
}

func (b *fakeBackend) rules(dsts ...string) {
	var m filter.Match
	m.IPProto = views.SliceOf([]ipproto.Proto{ipproto.TCP, ipproto.UDP, ipproto.ICMPv4})
	m.Srcs = []netip.Prefix{netip.MustParsePrefix("100.64.0.0/10")}
	for _, d := range dsts {
		m.Dsts = append(m.Dsts, filter.NetPortRange{Net: netip.MustParsePrefix(d), Ports: filter.PortRange{First: 0, Last: 65535}})
	}
	nm := *b.nm
	nm.PacketFilter = []filter.Match{m}
	b.nm = &nm
	b.update()
}

func newFake(t *testing.T) (*frozenEngine, *fakeEngine, *fakeBackend) {
	t.Helper()
	below := &fakeEngine{}
	e := newFrozenEngine(below)
	client := &tailcfg.Node{Addresses: []netip.Prefix{netip.MustParsePrefix(laptop + "/32")}, AllowedIPs: []netip.Prefix{netip.MustParsePrefix(laptop + "/32")}}
	b := &fakeBackend{engine: e, advertised: []netip.Prefix{testRoutes[0]}, nm: &netmap.NetworkMap{Peers: []tailcfg.NodeView{client.View()}}}
	e.attach(b)
	b.rules("10.0.0.0/16")
	if !below.accepts("10.0.3.4", 80) {
		t.Fatal("a rule allows nothing")
	}
	return e, below, b
}

// TestRulesChangeWhileFrozen changes access rules while a route is withdrawn.
func TestRulesChangeWhileFrozen(t *testing.T) {
	e, below, b := newFake(t)
	e.freeze([]netip.Prefix{testRoutes[0]})
	b.advertised = nil
	b.update()
	if !below.accepts("10.0.3.4", 80) {
		t.Error("a withdrawn route that is frozen is no longer forwarded")
	}
	if below.accepts("10.1.3.4", 80) {
		t.Error("an address that was never advertised is accepted")
	}
	b.rules("10.0.9.0/24")
	if below.accepts("10.0.3.4", 80) {
		t.Error("a packet was accepted after the rule for it was taken away")
	}
	if !below.accepts("10.0.9.1", 80) {
		t.Error("a packet was refused although a new rule allows it")
	}
	b.rules()
	if below.accepts("10.0.3.4", 80) || below.accepts("10.0.9.1", 80) {
		t.Error("a packet was accepted after all rules were removed")
	}
	b.rules("10.0.0.0/16")
	e.freeze(nil)
	if below.accepts("10.0.3.4", 80) {
		t.Error("a withdrawn route that is not frozen is still forwarded")
	}
}

func TestNoRulesWhileFrozen(t *testing.T) {
	for name, change := range map[string]func(*fakeBackend){
		"no netmap": func(b *fakeBackend) { b.nm = nil; b.update() },
		"shields up": func(b *fakeBackend) {
			b.engine.SetFilter(filter.NewShieldsUpFilter(allAddrs, allAddrs, nil, logger.Discard))
		},
		"rules that Tailnet Lock forbids": func(b *fakeBackend) {
			unsigned := &tailcfg.Node{UnsignedPeerAPIOnly: true, AllowedIPs: []netip.Prefix{netip.MustParsePrefix("100.64.0.8/32")}}
			nm := *b.nm
			nm.Peers = append(slices.Clone(nm.Peers), unsigned.View())
			b.nm = &nm
			// The backend installs a filter without rules.
			b.engine.SetFilter(filter.New(nil, nil, new(netipx.IPSet), nil, nil, logger.Discard))
		},
	} {
		t.Run(name, func(t *testing.T) {
			e, below, b := newFake(t)
			n := startedNode(e)
			e.freeze([]netip.Prefix{testRoutes[0]})
			b.advertised = nil
			b.update()
			change(b)
			if below.accepts("10.0.3.4", 80) {
				t.Error("a packet was accepted")
			}
			if n.AllowsFlow(6, netip.MustParseAddr(laptop), netip.MustParseAddrPort("10.0.3.4:80")) {
				t.Error("a flow is allowed")
			}
		})
	}
}

// TestRemovedRuleEndsUDP removes the rule for a UDP flow whose answers the engine's filter
// still accepts.
func TestRemovedRuleEndsUDP(t *testing.T) {
	e, below, b := newFake(t)
	n := startedNode(e)
	answer := packet.Generate(packet.UDP4Header{
		Src: netip.MustParseAddr("10.0.3.4"), Dst: netip.MustParseAddr(laptop), SrcPort: 7, DstPort: 1000,
	}, []byte("answer"))
	var p packet.Parsed
	p.Decode(answer)
	below.filter.RunOut(&p, 0)
	b.rules()
	if n.AllowsFlow(17, netip.MustParseAddr(laptop), netip.MustParseAddrPort("10.0.3.4:7")) {
		t.Error("the flow is still allowed")
	}
}

func TestAllowsFlow(t *testing.T) {
	e, _, b := newFake(t)
	n := startedNode(e)
	const icmp, tcp, udp, gre = 1, 6, 17, 47
	for _, c := range []struct {
		name     string
		protocol uint8
		from, to string
		want     bool
	}{
		{"UDP", udp, laptop, "10.0.3.4:7", true},
		{"TCP", tcp, laptop, "10.0.3.4:80", true},
		{"ping", icmp, laptop, "10.0.3.4:0", true},
		{"UDP to a host without a rule", udp, laptop, "10.1.3.4:7", false},
		{"TCP to a host without a rule", tcp, laptop, "10.1.3.4:80", false},
		{"UDP from a stranger", udp, "100.64.0.10", "10.0.3.4:7", false},
		{"UDP from the VPC", udp, "10.0.3.4", "10.0.3.5:7", false},
		{"another protocol", gre, laptop, "10.0.3.4:0", false},
		{"between address families", udp, "fd7a:115c:a1e0::9", "10.0.3.4:7", false},
	} {
		if got := n.AllowsFlow(c.protocol, netip.MustParseAddr(c.from), netip.MustParseAddrPort(c.to)); got != c.want {
			t.Errorf("%s: allowed %v, want %v", c.name, got, c.want)
		}
	}
	b.rules("10.0.9.0/24")
	client, host := netip.MustParseAddr(laptop), netip.MustParseAddrPort("10.0.3.4:80")
	if n.AllowsFlow(tcp, client, host) {
		t.Error("a flow is allowed after its rule was taken away")
	}
	if a := testing.AllocsPerRun(100, func() { n.AllowsFlow(tcp, client, host) }); a > 1 {
		t.Errorf("%v allocations per flow, want at most 1", a)
	}
}

func TestFrozenHostConfiguration(t *testing.T) {
	e, below, _ := newFake(t)
	addrs := []netip.Prefix{netip.MustParsePrefix("100.64.0.1/32")}
	e.freeze(testRoutes)
	e.Reconfig(nil, &router.Config{LocalAddrs: addrs}, nil)
	if !slices.Equal(below.host.SubnetRoutes, testRoutes) {
		t.Errorf("while frozen the host has %v", below.host.SubnetRoutes)
	}
	e.Reconfig(nil, &router.Config{LocalAddrs: addrs, SubnetRoutes: testRoutes}, nil)
	if !slices.Equal(below.host.SubnetRoutes, testRoutes) {
		t.Errorf("with the routes back the host has %v", below.host.SubnetRoutes)
	}
	e.Reconfig(nil, &router.Config{}, nil)
	if len(below.host.SubnetRoutes) != 0 {
		t.Error("a node that is going down keeps routes")
	}
	e.freeze(nil)
	e.Reconfig(nil, &router.Config{LocalAddrs: addrs}, nil)
	if len(below.host.SubnetRoutes) != 0 {
		t.Error("a route that is not frozen is kept")
	}
}

// rulesWithin bounds the time until a change of the rules takes effect.
const rulesWithin = 10 * time.Second

// TestRulesFollowControl changes the access rules in each state of a real node, with
// failures of the engine in between.
func TestRulesFollowControl(t *testing.T) {
	for _, state := range []struct {
		name  string
		enter func(*testing.T, *Node)
	}{
		{"serving", func(*testing.T, *Node) {}},
		{"holding routes back", func(t *testing.T, n *Node) {
			n.HoldBack(true)
			awaitStatus(t, n, "the routes to be withdrawn", func(s *Status) bool { return len(s.Advertised) == 0 })
		}},
		{"serving again", func(t *testing.T, n *Node) {
			n.HoldBack(true)
			awaitStatus(t, n, "the routes to be withdrawn", func(s *Status) bool { return len(s.Advertised) == 0 })
			n.HoldBack(false)
			awaitStatus(t, n, "the routes to be back", func(s *Status) bool { return len(s.Advertised) > 0 })
		}},
		{"draining", func(t *testing.T, n *Node) {
			ctx, cancel := context.WithTimeout(t.Context(), testwait.Limit())
			defer cancel()
			if err := n.Withdraw(ctx); err != nil {
				t.Fatal(err)
			}
		}},
		{"unable to withdraw", func(t *testing.T, n *Node) {
			tried := failEdits(n)
			n.HoldBack(true)
			<-tried
		}},
		{"unable to advertise again", func(t *testing.T, n *Node) {
			n.HoldBack(true)
			awaitStatus(t, n, "the routes to be withdrawn", func(s *Status) bool { return len(s.Advertised) == 0 })
			tried := failEdits(n)
			n.HoldBack(false)
			<-tried
		}},
	} {
		t.Run(state.name, func(t *testing.T) {
			control := startTailnet(t, nil)
			changed := make(chan struct{}, 100)
			n := startNode(t, control, give(testKey), func(c *Config) { c.RulesChanged = func() { changed <- struct{}{} } })
			client := startNode(t, control, give(testKey), nil)
			n.Advertise(testRoutes)
			awaitStatus(t, n, "the routes to be primary", func(s *Status) bool { return len(s.Primary) == len(testRoutes) })
			from := awaitStatus(t, client, "a client", func(s *Status) bool { return s.Running() }).IPs[0]
			allow := func(dst string) {
				t.Helper()
				err := control.SetPolicy(t.Context(), tailnettest.Policy{
					AutoApprovers: map[string][]netip.Prefix{testTag: testRoutes},
					Rules:         []tailnettest.Rule{{Src: []string{"*"}, Dst: []string{dst}}},
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			await := func(what, dst string, want bool) {
				t.Helper()
				addr := netip.MustParseAddr(dst)
				start := time.Now()
				for n.sys.Engine.Get().GetFilter().CheckTCP(from, addr, 80) == filter.Accept != want ||
					n.AllowsFlow(6, from, netip.AddrPortFrom(addr, 80)) != want {
					if time.Since(start) > rulesWithin {
						t.Fatalf("%s: not within %v", what, rulesWithin)
					}
					time.Sleep(time.Millisecond)
				}
			}
			await("the client's rule", "10.0.3.4", true)
			state.enter(t, n)
			await("the rule in this state", "10.0.3.4", true)
			for len(changed) > 0 {
				<-changed
			}
			allow("10.0.9.0/24")
			await("a rule that is taken away", "10.0.3.4", false)
			await("a new rule", "10.0.9.1", true)
			await("an address without a rule", "10.0.3.4", false)
			select {
			case <-changed:
			case <-time.After(testwait.Limit()):
				t.Error("RulesChanged was not called")
			}
			allow("*")
			await("a rule that is given back", "10.0.3.4", true)
		})
	}
}

// failEdits makes the backend refuse new preferences. tried is closed at the first refusal.
func failEdits(n *Node) (tried chan struct{}) {
	tried = make(chan struct{})
	var once sync.Once
	n.setEdit(func(*ipn.MaskedPrefs) error {
		once.Do(func() { close(tried) })
		return errors.New("no space left on device")
	})
	return tried
}

func (n *Node) setEdit(edit func(*ipn.MaskedPrefs) error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.editPrefs = edit
}

// TestAdvertisingIsRetried has the backend refuse new preferences for a while.
func TestAdvertisingIsRetried(t *testing.T) {
	control := startTailnet(t, nil)
	n := startNode(t, control, give(testKey), nil)
	works := n.editPrefs
	tried := failEdits(n)
	n.Advertise(testRoutes)
	<-tried
	n.setEdit(works)
	awaitStatus(t, n, "the routes to be primary", func(s *Status) bool { return len(s.Primary) == len(testRoutes) })
}

// startedNode returns a node with e as its engine, and nothing else.
func startedNode(e *frozenEngine) *Node {
	n := &Node{engine: e, started: make(chan struct{})}
	close(n.started)
	return n
}
