package handover

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"subnetrouter/internal/packet"
)

// The hostile node has the routers' tag, and at most one small route.
var (
	hostileAddr  = netip.MustParseAddr("100.64.0.66")
	hostileRoute = netip.MustParsePrefix("10.0.5.0/24")
	hostileHost  = netip.MustParseAddr("10.0.5.7")
	strangerAddr = netip.MustParseAddr("100.64.0.77")
)

// hostileWorld is a pair of routers and a node that does not follow the protocol.
type hostileWorld struct {
	*pair
	withRoute bool
	route     netip.Prefix // the hostile node's, if it has one
	mu        sync.Mutex
	received  [][]byte // by the hostile node
}

func newHostileWorld(t *testing.T, withRoute bool) *hostileWorld {
	t.Helper()
	w := &hostileWorld{withRoute: withRoute, route: hostileRoute}
	w.pair = newPair(t, func(p *pair) {
		p.lose = func(to netip.Addr, message []byte) bool {
			if to == hostileAddr {
				w.mu.Lock()
				w.received = append(w.received, bytes.Clone(message))
				w.mu.Unlock()
			}
			return to == hostileAddr
		}
	})
	w.control(w.old)
	return w
}

// control gives the VPC's routes to a router. The hostile node is in the netmap of both.
func (w *hostileWorld) control(to *side) {
	hostile := Node{Name: "hostile", Addrs: []netip.Addr{hostileAddr}, Online: true}
	if w.withRoute {
		hostile.Routes = []netip.Prefix{w.route}
	}
	node := func(s *side, name string) Node {
		n := Node{Name: name, Addrs: []netip.Addr{s.addr}, Online: true}
		if s == to {
			n.Routes = vpc
		}
		return n
	}
	own := func(s *side) []netip.Prefix {
		if s == to {
			return vpc
		}
		return nil
	}
	w.old.SetPeers(own(w.old), []Node{node(w.new, "new"), hostile})
	w.new.SetPeers(own(w.new), []Node{node(w.old, "old"), hostile})
}

func (w *hostileWorld) stateMessage(s State) []byte {
	b, _ := json.Marshal(s)
	return append([]byte{kindState}, b...)
}

var claim = State{Routes: vpc, Healthy: true, Relays: true, Confirms: true}

// sendBoth delivers a message of the hostile node to both routers.
func (w *hostileWorld) sendBoth(message []byte) {
	w.old.Receive(hostileAddr, message)
	w.new.Receive(hostileAddr, message)
}

// leaked lists the packets that the hostile node received for destinations, or from sources,
// outside its route.
func (w *hostileWorld) leaked() (out []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.received {
		if m[0] == kindState {
			continue
		}
		p, _, ok := packet.ParseHeader(m[1:])
		if ok && !(w.withRoute && (hostileRoute.Contains(p.Src) || hostileRoute.Contains(p.Dst))) {
			out = append(out, fmt.Sprintf("kind %d: %s to %s", m[0], p.Src, p.Dst))
		}
	}
	return out
}

// TestClaimsGiveNothing has a node without a route claim all routes while a router drains,
// and relay packets of a flow that it knows.
func TestClaimsGiveNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newHostileWorld(t, false)
		flow := ipPacket(client, target, "injected")
		w.old.flows[string(flow)] = true
		w.sendBoth(w.stateMessage(claim))
		time.Sleep(time.Second)
		w.drain(t)
		w.control(w.new)
		w.sendBoth(w.stateMessage(claim))
		time.Sleep(10 * time.Millisecond)
		w.sendBoth(relayed(flow, 1))
		if w.old.packetsMoved()+w.new.packetsMoved() > 0 {
			t.Errorf("a node without a route reached a flow: %q", w.old.taken)
		}
		if direct, via, _ := w.old.Route(ipPacket(target, client, "secret")); via == hostileAddr || !direct {
			t.Errorf("answers go directly: %v, via %v", direct, via)
		}
		w.sendBoth([]byte{kindRelayed, 0x45, 0}) // malformed
		if direct, via, _ := w.old.Route(ipPacket(target, client, "secret")); via == hostileAddr || !direct {
			t.Errorf("after a malformed message, answers go directly: %v, via %v", direct, via)
		}
		if got := w.leaked(); len(got) > 0 {
			t.Errorf("the node got %q", got)
		}
	})
}

// TestSmallRouteGivesThatRoute has a node with a route inside the VPC's act for that route,
// and for the rest of the VPC.
func TestSmallRouteGivesThatRoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newHostileWorld(t, true)
		inside, outside := ipPacket(client, hostileHost, "x"), ipPacket(client, target, "x")
		w.old.flows[string(inside)], w.old.flows[string(outside)] = true, true
		w.drain(t)
		w.control(w.new)
		w.sendBoth(w.stateMessage(claim))
		time.Sleep(10 * time.Millisecond)
		w.old.Receive(hostileAddr, relayed(outside, 1))
		if w.old.packetsMoved() > 0 {
			t.Error("a packet for another router's route was accepted")
		}
		w.old.Receive(hostileAddr, relayed(inside, 2))
		if got := w.old.list(&w.old.taken); !slices.Equal(got, []string{string(inside)}) {
			t.Errorf("old took %q, want the packet for the node's own route", got)
		}
		// The client has moved to the node for that route only.
		if direct, via, _ := w.old.Route(ipPacket(hostileHost, client, "x")); direct || via != hostileAddr {
			t.Errorf("answers from its route go directly: %v, via %v", direct, via)
		}
		if direct, via, _ := w.old.Route(ipPacket(target, client, "x")); !direct || via != newAddr {
			t.Errorf("answers from the rest go directly: %v, via %v", direct, via)
		}
		// If it drains, its drain covers that route only, and gets no other packets.
		s := claim
		s.Draining = true
		w.new.Receive(hostileAddr, w.stateMessage(s))
		time.Sleep(10 * time.Millisecond)
		w.new.Receive(hostileAddr, append([]byte{kindForClient}, ipPacket(target, client, "forged")...))
		if len(w.new.list(&w.new.toClient)) > 0 {
			t.Error("a packet from another router's route went to the client")
		}
		w.new.Relay(outside)
		if got := w.leaked(); len(got) > 0 {
			t.Errorf("the node got %q", got)
		}
	})
}

// TestWiderRouteGivesNothing has a node with a route that contains the VPC's: clients do not
// send to it while another node has the VPC's route.
func TestWiderRouteGivesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newHostileWorld(t, true)
		w.route = netip.MustParsePrefix("10.0.0.0/8")
		w.control(w.old)
		flow, first := ipPacket(client, target, "of a flow"), ipPacket(client, target, "first")
		w.old.flows[string(flow)] = true
		s := claim
		s.Draining = true
		w.sendBoth(w.stateMessage(claim))
		w.new.Receive(hostileAddr, w.stateMessage(s))
		time.Sleep(10 * time.Millisecond)
		w.old.BeginDrain(t.Context())
		time.Sleep(10 * time.Millisecond)
		w.old.Receive(hostileAddr, relayed(flow, 1))
		if _, via, _ := w.old.Route(ipPacket(target, client, "secret")); via == hostileAddr || w.old.packetsMoved() > 0 {
			t.Errorf("before control moves the routes: packets go via %v, and %q were accepted", via, w.old.taken)
		}
		w.control(w.new)
		if !w.new.Relay(flow) || len(w.old.list(&w.old.taken)) != 1 {
			t.Error("the draining router does not get packets of its flow")
		}
		if !w.new.Relay(first) || len(w.new.list(&w.new.unclaimed)) != 1 {
			t.Error("a packet of a new flow is not delivered here")
		}
		w.new.Receive(hostileAddr, append([]byte{kindForClient}, ipPacket(target, client, "forged")...))
		if len(w.new.list(&w.new.toClient)) > 0 {
			t.Error("a packet from this router's route went to the client")
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, m := range w.received {
			if m[0] != kindState && m[0] != kindWait {
				t.Errorf("the node got a packet of kind %d", m[0])
			}
		}
	})
}

// TestEndedDrainDoesNotBeginAgain has a node that keeps its route announce and end drains.
func TestEndedDrainDoesNotBeginAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newHostileWorld(t, true)
		s := claim
		s.Draining = true
		announce := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(announceEvery) {
				w.new.Receive(hostileAddr, w.stateMessage(s))
			}
		}
		announce(minDrainLimit + time.Second)
		announce(time.Hour)
		if w.new.MayHaveFlow() {
			t.Error("a drain began again after its deadline")
		}
		gone := s
		gone.Gone = true
		w.new.Receive(hostileAddr, w.stateMessage(gone))
		announce(time.Minute)
		if w.new.MayHaveFlow() {
			t.Error("a drain began again after its announced end")
		}
		time.Sleep(2 * silentAfter)
		announce(time.Second)
		if !w.new.MayHaveFlow() {
			t.Error("a drain after silence does not count")
		}
	})
}

// TestTakeover moves routes to another router while a third node has a wider one.
func TestTakeover(t *testing.T) {
	w := newHostileWorld(t, true)
	w.route = netip.MustParsePrefix("10.0.0.0/8")
	w.control(w.old)
	done := w.old.Takeover(vpc)
	if done() {
		t.Error("a wider route that the node had before counts as a takeover")
	}
	w.control(w.new)
	if !done() {
		t.Error("routes that moved do not count as a takeover")
	}
}

// TestDeniedPacketsAreRefused relays a packet that the deny list or the access rules of
// the draining router refuse.
func TestDeniedPacketsAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newHostileWorld(t, false)
		flow := ipPacket(client, target, "x")
		w.old.flows[string(flow)], w.old.denied[string(flow)] = true, true
		w.drain(t)
		w.new.Relay(flow)
		if got := w.old.list(&w.old.taken); len(got) > 0 {
			t.Errorf("old took %q, which its rules deny", got)
		}
	})
}

// TestReturnsAreOwnPackets has the hostile node return packets that were never relayed to
// it, were relayed to another router, or have come back before.
func TestReturnsAreOwnPackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newHostileWorld(t, true)
		s := claim
		s.Draining = true
		w.new.Receive(hostileAddr, w.stateMessage(s)) // it has its route, so this counts for the route
		w.drain(t)
		w.control(w.new)
		time.Sleep(10 * time.Millisecond)

		forged := ipPacket(client, netip.MustParseAddr("169.254.170.2"), "forged")
		w.sendBoth(append([]byte{kindUnknown}, forged...))
		for number := range uint64(100) {
			w.sendBoth(append([]byte{kindUnknown}, appendNumber(slices.Clone(forged), number)...))
		}
		w.mu.Lock()
		w.received = nil
		w.mu.Unlock()
		if w.new.packetsMoved()+w.old.packetsMoved() > 0 {
			t.Fatalf("forged packets came back: %q, %q", w.new.unclaimed, w.old.unclaimed)
		}

		// A packet for its own route is relayed to it, and it answers with another packet.
		own := ipPacket(client, hostileHost, "own")
		if !w.new.Relay(own) {
			t.Fatal("not relayed")
		}
		number := w.new.lastNumber.Load()
		answer := append([]byte{kindUnknown}, appendNumber(slices.Clone(forged), number)...)
		w.new.Receive(strangerAddr, answer)
		w.new.Receive(oldAddr, answer)
		if w.new.packetsMoved() > 0 {
			t.Fatal("an answer of another node was accepted")
		}
		for range 3 {
			w.new.Receive(hostileAddr, answer)
		}
		if got := w.new.list(&w.new.unclaimed); !slices.Equal(got, []string{string(own)}) {
			t.Fatalf("came back: %q, want this router's own copy, once", got)
		}

		// A late answer has no effect.
		w.new.Relay(own)
		number = w.new.lastNumber.Load()
		time.Sleep(returnWithin)
		before := w.new.packetsMoved()
		w.new.Receive(hostileAddr, append([]byte{kindUnknown}, appendNumber(nil, number)...))
		if w.new.packetsMoved() != before {
			t.Errorf("an answer was accepted after %v", returnWithin)
		}
	})
}

// TestWaitIsBounded has a draining router answer kindWait again and again.
func TestWaitIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newHostileWorld(t, true)
		s := claim
		s.Draining = true
		w.new.Receive(hostileAddr, w.stateMessage(s))
		time.Sleep(10 * time.Millisecond)
		own := ipPacket(client, hostileHost, "own")
		start := time.Now()
		w.new.Relay(own)
		number := w.new.lastNumber.Load()
		for len(w.new.list(&w.new.unclaimed)) == 0 && time.Since(start) < time.Minute {
			w.new.Receive(hostileAddr, appendNumber([]byte{kindWait}, number))
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(start); took > returnWithin+answerWithin {
			t.Errorf("a new flow waited %v, want at most %v", took, returnWithin+answerWithin)
		}
	})
}

// size returns the size of a table of a router.
func size(s *side, table func(*Coordinator) int) int {
	s.Coordinator.mu.Lock()
	defer s.Coordinator.mu.Unlock()
	return table(s.Coordinator)
}

// size returns the number of pending packets and of their clients.
func (t *pendingTable) size() (packets, clients int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.packets), len(t.perClient)
}

// TestTablesAreBounded floods every table, and checks that others still have a share.
func TestTablesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newHostileWorld(t, true)
		s := claim
		s.Draining = true
		w.new.Receive(hostileAddr, w.stateMessage(s))
		w.drain(t)
		w.control(w.new)
		time.Sleep(10 * time.Millisecond)
		addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{100, 100, byte(i >> 8), byte(i)}) }

		// States, faster than they are read.
		for range 10_000 {
			w.sendBoth(w.stateMessage(s))
		}
		if n := size(w.old, func(c *Coordinator) int { return len(c.unread) }); n > 1 {
			t.Errorf("%d unread states of one node", n)
		}
		// Clients whose packets a router relays.
		for i := range 3 * maxMovedClients {
			b := ipPacket(addr(i), hostileHost, "x")
			w.old.flows[string(b)] = true
			w.old.Receive(hostileAddr, relayed(b, uint64(i)))
		}
		if n := size(w.old, func(c *Coordinator) int { return len(c.movedClients[hostileAddr]) }); n > maxMovedClients {
			t.Errorf("%d moved clients, want at most %d", n, maxMovedClients)
		}
		known := ipPacket(client, target, "x")
		w.old.flows[string(known)] = true
		w.new.Relay(known)
		if direct, via, _ := w.old.Route(ipPacket(target, client, "x")); direct || via != newAddr {
			t.Errorf("a client of another router has no share: directly %v, via %v", direct, via)
		}
		// SYN-ACKs.
		for i := range 3 * maxAccepted {
			w.old.Route(segment(target, addr(i), string([]byte{0, 80, 0, 1, 12: 5 << 4, 0x12, 19: 0})))
		}
		if n := size(w.old, func(c *Coordinator) int { return len(c.accepted) }); n != maxAccepted {
			t.Errorf("the SYN-ACKs of %d flows are remembered, want %d", n, maxAccepted)
		}
		// Datagrams of one client, to a router that does not answer.
		p := &w.new.pending
		pending := p.size
		for i := range 5000 {
			w.new.Relay(ipPacket(client, hostileHost, fmt.Sprint(i)))
		}
		if n, _ := pending(); n > maxPendingPerClient {
			t.Errorf("%d pending packets of one client", n)
		}
		w.new.Relay(ipPacket(addr(1), hostileHost, "x"))
		if _, clients := pending(); clients != 2 {
			t.Error("another client has no share")
		}
		for i := range 10_000 {
			w.new.Relay(ipPacket(addr(i), hostileHost, "x"))
		}
		if n, _ := pending(); n > maxPending {
			t.Errorf("%d pending packets", n)
		}
		time.Sleep(returnWithin + answerWithin)
		if packets, clients := pending(); packets+clients > 0 {
			t.Errorf("%d pending packets of %d clients are left", packets, clients)
		}
		// Nodes.
		var many []Node
		for i := range 10 * maxNodes {
			many = append(many, Node{Addrs: []netip.Addr{addr(i)}, Online: true})
		}
		w.new.SetPeers(nil, append(many, Node{Addrs: []netip.Addr{oldAddr}, Online: true, Routes: vpc}))
		if n := len(w.new.peers.Load().nodes); n > maxNodes {
			t.Errorf("%d nodes take part", n)
		}
		if holders, _ := w.new.peers.Load().holdersOf(target); len(holders) != 1 {
			t.Error("the node with the routes is not among them")
		}
		for i := range many {
			w.new.Receive(addr(i), w.stateMessage(claim))
			w.new.readStates()
		}
		if n := size(w.new, func(c *Coordinator) int { return len(c.states) }); n > maxNodes {
			t.Errorf("%d states are kept", n)
		}
	})
}

// TestExitNodeHoldsNothing checks that a default route is not a route of the VPC.
func TestExitNodeHoldsNothing(t *testing.T) {
	p := newPeers(nil, []Node{{Addrs: []netip.Addr{hostileAddr}, Online: true, Routes: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}}})
	if holders, _ := p.holdersOf(target); len(holders) > 0 || p.gained(vpc[0], newPeers(nil, nil)) {
		t.Error("an exit node holds the VPC's routes")
	}
}

// TestStrangersCostTheSame sends datagrams of a node without the tag to routers in a small and
// in a large tailnet.
func TestStrangersCostTheSame(t *testing.T) {
	for _, size := range []int{1, 10_000} {
		r := New(Config{Logger: slog.New(slog.DiscardHandler)}) // any use of the netmap or the data path panics
		list := make([]Node, size)
		for i := range list {
			list[i] = Node{Addrs: []netip.Addr{netip.AddrFrom4([4]byte{100, 100, byte(i >> 8), byte(i)})}, Routes: vpc}
		}
		r.SetPeers(nil, list)
		for _, message := range [][]byte{{1, 2, 3}, relayed(ipPacket(client, target, "x"), 1), append([]byte{kindState}, `{"answer":true}`...)} {
			if n := testing.AllocsPerRun(100, func() { r.Receive(strangerAddr, message) }); n > 0 {
				t.Errorf("with %d nodes, a stranger's datagram costs %v allocations", size, n)
			}
		}
	}
}

// BenchmarkStranger measures a datagram from a node without the tag.
func BenchmarkStranger(b *testing.B) {
	for _, size := range []int{10, 10_000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			r := New(Config{Logger: slog.New(slog.DiscardHandler)})
			list := make([]Node, size)
			for i := range list {
				list[i] = Node{Addrs: []netip.Addr{netip.AddrFrom4([4]byte{100, 100, byte(i >> 8), byte(i)})}}
			}
			r.SetPeers(nil, list)
			for b.Loop() {
				r.Receive(strangerAddr, []byte{1, 2, 3})
			}
		})
	}
}

var hostileSeed = flag.Uint64("hostile-seed", 0, "replay the one run of TestHostileMoves with this seed")

// TestHostileMoves draws the moves of a node with a small route, and of control, from a
// seed. The node neither acts for a destination outside its route nor receives its packets.
func TestHostileMoves(t *testing.T) {
	seeds := []uint64{*hostileSeed}
	if *hostileSeed == 0 {
		seeds = nil
		for i := range uint64(200) {
			seeds = append(seeds, i+1)
		}
	}
	for _, seed := range seeds {
		synctest.Test(t, func(t *testing.T) { playHostile(t, seed) })
		if t.Failed() {
			t.Fatalf("replay with: go test ./internal/handover -run TestHostileMoves -hostile-seed %d", seed)
		}
	}
}

func playHostile(t *testing.T, seed uint64) {
	dice := rand.New(rand.NewPCG(seed, 0))
	w := newHostileWorld(t, dice.IntN(3) > 0)
	pick := func(list ...netip.Addr) netip.Addr { return list[dice.IntN(len(list))] }
	anyTarget := func() netip.Addr {
		return pick(target, hostileHost, netip.MustParseAddr("10.0.5.9"), netip.MustParseAddr("169.254.170.2"), netip.MustParseAddr("10.9.0.1"))
	}
	flows := [][]byte{ipPacket(client, target, "a"), ipPacket(client, hostileHost, "b"), segment(client, target, "c")}
	for _, f := range flows {
		w.old.flows[string(f)] = true
	}
	relayedPackets := map[string]int{} // packets of clients that the new router relayed
	var sent [][]byte
	message := func() []byte {
		inner := ipPacket(client, anyTarget(), fmt.Sprint("hostile", dice.IntN(100)))
		if dice.IntN(2) == 0 {
			inner = flows[dice.IntN(len(flows))]
		}
		number := w.new.lastNumber.Load() - uint64(dice.IntN(4))
		switch dice.IntN(9) {
		case 0, 1:
			s := State{Healthy: dice.IntN(2) == 0, Relays: true, Confirms: dice.IntN(2) == 0, Answer: dice.IntN(2) == 0,
				Draining: dice.IntN(2) == 0, Gone: dice.IntN(8) == 0, Routes: []netip.Prefix{netip.PrefixFrom(anyTarget(), 8+dice.IntN(25))}}
			return w.stateMessage(s)
		case 2:
			return relayed(inner, number)
		case 3:
			return append([]byte{kindForClient}, ipPacket(anyTarget(), client, "hostile")...)
		case 4:
			return append([]byte{kindUnknown}, appendNumber(slices.Clone(inner), number)...)
		case 5:
			return appendNumber([]byte{kindTaken}, number)
		case 6:
			return appendNumber([]byte{kindWait}, number)
		case 7: // a message that it received, as another kind
			w.mu.Lock()
			defer w.mu.Unlock()
			if len(w.received) > 0 {
				m := bytes.Clone(w.received[dice.IntN(len(w.received))])
				m[0] = byte(dice.IntN(8))
				return m
			}
		default:
			if len(sent) > 0 { // a replay, truncated, perhaps with a flipped bit
				m := bytes.Clone(sent[dice.IntN(len(sent))])
				if len(m) > 0 && dice.IntN(2) == 0 {
					m[dice.IntN(len(m))] ^= 1 << dice.IntN(8)
				}
				return m[:dice.IntN(len(m)+1)]
			}
		}
		return []byte{byte(dice.Uint32()), byte(dice.Uint32())}
	}
	for step := range 300 {
		switch r := dice.IntN(100); {
		case r < 70:
			m := message()
			sent = append(sent, m)
			if dice.IntN(2) == 0 {
				w.old.Receive(hostileAddr, m)
			} else {
				w.new.Receive(hostileAddr, m)
			}
		case r < 80:
			b := ipPacket(client, anyTarget(), fmt.Sprint("client", step))
			if w.new.Relay(b) {
				relayedPackets[string(b)]++
			}
		case r < 83:
			w.old.BeginDrain(t.Context())
			w.control(w.new)
		case r < 85:
			w.control([]*side{w.old, w.new}[dice.IntN(2)])
		default:
			time.Sleep(time.Duration(dice.IntN(400)) * time.Millisecond)
		}
	}
	time.Sleep(10 * time.Second)
	may := func(a netip.Addr) bool { return w.withRoute && hostileRoute.Contains(a) }
	if got := w.leaked(); len(got) > 0 {
		t.Errorf("the node got %q", got)
	}
	for _, s := range []*side{w.old, w.new} {
		for _, b := range s.list(&s.unclaimed) {
			if relayedPackets[b]--; relayedPackets[b] < 0 {
				t.Errorf("a packet came back twice, or was never relayed: %q", b)
			}
		}
		for _, b := range s.list(&s.taken) {
			if p, _, _ := packet.ParseHeader([]byte(b)); !may(p.Dst) {
				t.Errorf("a packet for %s reached a flow", p.Dst)
			}
		}
		for _, b := range s.list(&s.toClient) {
			if p, _, _ := packet.ParseHeader([]byte(b)); !may(p.Src) {
				t.Errorf("a packet from %s went to a client", p.Src)
			}
		}
	}
}
