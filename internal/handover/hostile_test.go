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
)

// The hostile node has a tag of the routers', and at most one small route of its own.
var (
	hostileAddr  = netip.MustParseAddr("100.64.0.66")
	hostileRoute = netip.MustParsePrefix("10.0.5.0/24")
	hostileHost  = netip.MustParseAddr("10.0.5.7")
	strangerAddr = netip.MustParseAddr("100.64.0.77")
)

// hostileWorld is a pair of routers and a node that follows no protocol.
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

// control gives the VPC's routes to a router, and shows both the hostile node.
func (w *hostileWorld) control(who *side) {
	hostile := Node{Name: "hostile", Addrs: []netip.Addr{hostileAddr}, Online: true}
	if w.withRoute {
		hostile.Routes = []netip.Prefix{w.route}
	}
	node := func(s *side, name string) Node {
		n := Node{Name: name, Addrs: []netip.Addr{s.addr}, Online: true}
		if s == who {
			n.Routes = vpc
		}
		return n
	}
	own := func(s *side) []netip.Prefix {
		if s == who {
			return vpc
		}
		return nil
	}
	w.old.SetPeers(own(w.old), []Node{node(w.new, "new"), hostile})
	w.new.SetPeers(own(w.new), []Node{node(w.old, "old"), hostile})
}

func (w *hostileWorld) says(s State) []byte {
	b, _ := json.Marshal(s)
	return append([]byte{kindState}, b...)
}

var claim = State{Routes: vpc, Healthy: true, Relays: true, Confirms: true}

// sendBoth delivers a message of the hostile node to both routers.
func (w *hostileWorld) sendBoth(message []byte) {
	w.old.Receive(hostileAddr, message)
	w.new.Receive(hostileAddr, message)
}

// leaked lists the packets of a kind that the hostile node got for destinations or from
// sources outside its route.
func (w *hostileWorld) leaked() (out []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.received {
		if m[0] == kindState {
			continue
		}
		p, _, ok := parsePacket(m[1:])
		if ok && !(w.withRoute && (hostileRoute.Contains(p.src) || hostileRoute.Contains(p.dst))) {
			out = append(out, fmt.Sprintf("kind %d: %s to %s", m[0], p.src, p.dst))
		}
	}
	return out
}

// TestClaimsGiveNothing has a node without any route claim all of them while another
// router drains, as well as relay packets of a flow that it knows.
func TestClaimsGiveNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newHostileWorld(t, false)
		flow := packet(client, target, "injected")
		w.old.flows[string(flow)] = true
		w.sendBoth(w.says(claim))
		time.Sleep(time.Second)
		w.drain(t)
		w.control(w.new)
		w.sendBoth(w.says(claim))
		time.Sleep(10 * time.Millisecond)
		w.sendBoth(relayed(flow, 1))
		if w.old.effects()+w.new.effects() > 0 {
			t.Errorf("a node without a route reached a flow: %q", w.old.taken)
		}
		if direct, via, _ := w.old.Route(packet(target, client, "secret")); via == hostileAddr || !direct {
			t.Errorf("answers go directly: %v, via %v", direct, via)
		}
		w.sendBoth([]byte{kindRelayed, 0x45, 0}) // garbage must not move a client either
		if direct, via, _ := w.old.Route(packet(target, client, "secret")); via == hostileAddr || !direct {
			t.Errorf("after garbage, answers go directly: %v, via %v", direct, via)
		}
		if got := w.leaked(); len(got) > 0 {
			t.Errorf("the node got %q", got)
		}
	})
}

// TestSmallRouteGivesThatRoute has a node with a route inside the VPC's act for it, and for
// the rest.
func TestSmallRouteGivesThatRoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newHostileWorld(t, true)
		inside, outside := packet(client, hostileHost, "x"), packet(client, target, "x")
		w.old.flows[string(inside)], w.old.flows[string(outside)] = true, true
		w.drain(t)
		w.control(w.new)
		w.sendBoth(w.says(claim))
		time.Sleep(10 * time.Millisecond)
		w.old.Receive(hostileAddr, relayed(outside, 1))
		if w.old.effects() > 0 {
			t.Error("a packet for a route of another router was taken")
		}
		w.old.Receive(hostileAddr, relayed(inside, 2))
		if got := w.old.list(&w.old.taken); !slices.Equal(got, []string{string(inside)}) {
			t.Errorf("old took %q, want the packet for the node's own route", got)
		}
		// The client has moved to it for its route only.
		if direct, via, _ := w.old.Route(packet(hostileHost, client, "x")); direct || via != hostileAddr {
			t.Errorf("answers from its route go directly: %v, via %v", direct, via)
		}
		if direct, via, _ := w.old.Route(packet(target, client, "x")); !direct || via != newAddr {
			t.Errorf("answers from the rest go directly: %v, via %v", direct, via)
		}
		// As a router that drains it speaks for that route only, and datagrams of the
		// rest do not go to it.
		s := claim
		s.Draining = true
		w.new.Receive(hostileAddr, w.says(s))
		time.Sleep(10 * time.Millisecond)
		w.new.Receive(hostileAddr, append([]byte{kindForClient}, packet(target, client, "forged")...))
		if len(w.new.list(&w.new.toClient)) > 0 {
			t.Error("a packet from another router's route went to the client")
		}
		w.new.Relay(outside)
		if got := w.leaked(); len(got) > 0 {
			t.Errorf("the node got %q", got)
		}
	})
}

// TestWiderRouteGivesNothing has a node with a route that contains the VPC's: no client sends
// to it while another node holds the VPC's own.
func TestWiderRouteGivesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newHostileWorld(t, true)
		w.route = netip.MustParsePrefix("10.0.0.0/8")
		w.control(w.old)
		flow, first := packet(client, target, "of a flow"), packet(client, target, "first")
		w.old.flows[string(flow)] = true
		s := claim
		s.Draining = true
		w.sendBoth(w.says(claim))
		w.new.Receive(hostileAddr, w.says(s))
		time.Sleep(10 * time.Millisecond)
		w.old.BeginDrain(t.Context())
		time.Sleep(10 * time.Millisecond)
		w.old.Receive(hostileAddr, relayed(flow, 1))
		if _, via, _ := w.old.Route(packet(target, client, "secret")); via == hostileAddr || w.old.effects() > 0 {
			t.Errorf("before control moves the routes: packets go via %v, %q were taken", via, w.old.taken)
		}
		w.control(w.new)
		if !w.new.Relay(flow) || len(w.old.list(&w.old.taken)) != 1 {
			t.Error("the draining router no longer gets its flow")
		}
		if !w.new.Relay(first) || len(w.new.list(&w.new.unclaimed)) != 1 {
			t.Error("a new flow is not taken here")
		}
		w.new.Receive(hostileAddr, append([]byte{kindForClient}, packet(target, client, "forged")...))
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
				w.new.Receive(hostileAddr, w.says(s))
			}
		}
		announce(leastDrain + time.Second)
		announce(time.Hour)
		if w.new.MayHaveFlow() {
			t.Error("a drain that was over began again")
		}
		gone := s
		gone.Gone = true
		w.new.Receive(hostileAddr, w.says(gone))
		announce(time.Minute)
		if w.new.MayHaveFlow() {
			t.Error("an announced end was no end")
		}
		time.Sleep(2 * silentAfter)
		announce(time.Second)
		if !w.new.MayHaveFlow() {
			t.Error("a drain after a silence does not count")
		}
	})
}

// TestTakeover tells a route that control gave to another router from one that it had before.
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
		t.Error("the routes moved, and it does not count")
	}
}

// TestDeniedPacketsAreNotTaken relays a packet that the deny list or the access rules of
// the draining router refuse.
func TestDeniedPacketsAreNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newHostileWorld(t, false)
		flow := packet(client, target, "x")
		w.old.flows[string(flow)], w.old.denied[string(flow)] = true, true
		w.drain(t)
		w.new.Relay(flow)
		if got := w.old.list(&w.old.taken); len(got) > 0 {
			t.Errorf("taken: %q", got)
		}
	})
}

// TestReturnsAreOwnPackets has the hostile node return packets that were never relayed to
// it, were relayed to another router, or came back already.
func TestReturnsAreOwnPackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newHostileWorld(t, true)
		s := claim
		s.Draining = true
		w.new.Receive(hostileAddr, w.says(s)) // holds its route: believed for that
		w.drain(t)
		w.control(w.new)
		time.Sleep(10 * time.Millisecond)

		forged := packet(client, netip.MustParseAddr("169.254.170.2"), "forged")
		w.sendBoth(append([]byte{kindUnknown}, forged...))
		for number := range uint64(100) {
			w.sendBoth(append([]byte{kindUnknown}, appendNumber(slices.Clone(forged), number)...))
		}
		w.mu.Lock()
		w.received = nil
		w.mu.Unlock()
		if w.new.effects()+w.old.effects() > 0 {
			t.Fatalf("forged packets came back: %q, %q", w.new.unclaimed, w.old.unclaimed)
		}

		// One for its own route is relayed to it, and it answers with another packet.
		own := packet(client, hostileHost, "own")
		if !w.new.Relay(own) {
			t.Fatal("not relayed")
		}
		number := w.new.number.Load()
		answer := append([]byte{kindUnknown}, appendNumber(slices.Clone(forged), number)...)
		w.new.Receive(strangerAddr, answer)
		w.new.Receive(oldAddr, answer)
		if w.new.effects() > 0 {
			t.Fatal("an answer of another node was taken")
		}
		for range 3 {
			w.new.Receive(hostileAddr, answer)
		}
		if got := w.new.list(&w.new.unclaimed); !slices.Equal(got, []string{string(own)}) {
			t.Fatalf("came back: %q, want this router's own copy, once", got)
		}

		// Nor may it come back late.
		w.new.Relay(own)
		number = w.new.number.Load()
		time.Sleep(returnWithin)
		before := w.new.effects()
		w.new.Receive(hostileAddr, append([]byte{kindUnknown}, appendNumber(nil, number)...))
		if w.new.effects() != before {
			t.Error("an answer was taken after 2 s")
		}
	})
}

// TestWaitIsBounded has a draining router answer for ever that it waits for control.
func TestWaitIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newHostileWorld(t, true)
		s := claim
		s.Draining = true
		w.new.Receive(hostileAddr, w.says(s))
		time.Sleep(10 * time.Millisecond)
		own := packet(client, hostileHost, "own")
		start := time.Now()
		w.new.Relay(own)
		number := w.new.number.Load()
		for len(w.new.list(&w.new.unclaimed)) == 0 && time.Since(start) < time.Minute {
			w.new.Receive(hostileAddr, appendNumber([]byte{kindWait}, number))
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(start); took > returnWithin+answerWithin {
			t.Errorf("a new flow waited %v", took)
		}
	})
}

// size returns the size of a table of a router.
func size(s *side, table func(*Coordinator) int) int {
	s.Coordinator.mu.Lock()
	defer s.Coordinator.mu.Unlock()
	return table(s.Coordinator)
}

// size returns the copies that are held, and of how many clients.
func (p *pending) size() (copies, clients int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.copies), len(p.ofClient)
}

// TestTablesAreBounded floods every table, and looks whether others still have a share.
func TestTablesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newHostileWorld(t, true)
		s := claim
		s.Draining = true
		w.new.Receive(hostileAddr, w.says(s))
		w.drain(t)
		w.control(w.new)
		time.Sleep(10 * time.Millisecond)
		addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{100, 100, byte(i >> 8), byte(i)}) }

		// States, faster than they are read.
		for range 10_000 {
			w.sendBoth(w.says(s))
		}
		if n := size(w.old, func(r *Coordinator) int { return len(r.inbox) }); n > 1 {
			t.Errorf("%d states of one node wait to be read", n)
		}
		// Clients that a router claims to have.
		for i := range 3 * mostMoved {
			b := packet(addr(i), hostileHost, "x")
			w.old.flows[string(b)] = true
			w.old.Receive(hostileAddr, relayed(b, uint64(i)))
		}
		if n := size(w.old, func(r *Coordinator) int { return len(r.moved[hostileAddr]) }); n > mostMoved {
			t.Errorf("%d clients are remembered", n)
		}
		known := packet(client, target, "x")
		w.old.flows[string(known)] = true
		w.new.Relay(known)
		if direct, via, _ := w.old.Route(packet(target, client, "x")); direct || via != newAddr {
			t.Errorf("a client of another router has no place: directly %v, via %v", direct, via)
		}
		// Datagrams of one client, to a router that does not answer.
		p := &w.new.returned
		held := p.size
		for i := range 5000 {
			w.new.Relay(packet(client, hostileHost, fmt.Sprint(i)))
		}
		if n, _ := held(); n > mostPendingOfClient {
			t.Errorf("%d copies of one client's datagrams", n)
		}
		w.new.Relay(packet(addr(1), hostileHost, "x"))
		if _, clients := held(); clients != 2 {
			t.Error("another client has no share")
		}
		for i := range 10_000 {
			w.new.Relay(packet(addr(i), hostileHost, "x"))
		}
		if n, _ := held(); n > mostPending {
			t.Errorf("%d copies", n)
		}
		time.Sleep(returnWithin + answerWithin)
		if copies, clients := held(); copies+clients > 0 {
			t.Errorf("%d copies of %d clients are left", copies, clients)
		}
		// Nodes.
		var many []Node
		for i := range 10 * mostNodes {
			many = append(many, Node{Addrs: []netip.Addr{addr(i)}, Online: true})
		}
		w.new.SetPeers(nil, append(many, Node{Addrs: []netip.Addr{oldAddr}, Online: true, Routes: vpc}))
		if n := len(w.new.peers.Load().nodes); n > mostNodes {
			t.Errorf("%d nodes take part", n)
		}
		if holders, _ := w.new.peers.Load().holdersOf(target); len(holders) != 1 {
			t.Error("the node with the routes is not among them")
		}
		for i := range many {
			w.new.Receive(addr(i), w.says(claim))
			w.new.read()
		}
		if n := size(w.new, func(r *Coordinator) int { return len(r.heard) }); n > mostNodes {
			t.Errorf("%d states are remembered", n)
		}
	})
}

// TestExitNodeHoldsNothing: a default route is not one of the VPC.
func TestExitNodeHoldsNothing(t *testing.T) {
	p := newPeers(nil, []Node{{Addrs: []netip.Addr{hostileAddr}, Online: true, Routes: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}}})
	if holders, _ := p.holdersOf(target); len(holders) > 0 || p.covers(vpc[0], newPeers(nil, nil)) {
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
		for _, message := range [][]byte{{1, 2, 3}, relayed(packet(client, target, "x"), 1), append([]byte{kindState}, `{"answer":true}`...)} {
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
// seed: nothing it sends acts for another destination, and nothing about another comes to it.
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
	flows := [][]byte{packet(client, target, "a"), packet(client, hostileHost, "b"), segment(client, target, "c")}
	for _, f := range flows {
		w.old.flows[string(f)] = true
	}
	taken := map[string]int{} // packets that the routers relayed themselves
	var sent [][]byte
	message := func() []byte {
		inner := packet(client, anyTarget(), fmt.Sprint("hostile", dice.IntN(100)))
		if dice.IntN(2) == 0 {
			inner = flows[dice.IntN(len(flows))]
		}
		number := w.new.number.Load() - uint64(dice.IntN(4))
		switch dice.IntN(9) {
		case 0, 1:
			s := State{Healthy: dice.IntN(2) == 0, Relays: true, Confirms: dice.IntN(2) == 0, Answer: dice.IntN(2) == 0,
				Draining: dice.IntN(2) == 0, Gone: dice.IntN(8) == 0, Routes: []netip.Prefix{netip.PrefixFrom(anyTarget(), 8+dice.IntN(25))}}
			return w.says(s)
		case 2:
			return relayed(inner, number)
		case 3:
			return append([]byte{kindForClient}, packet(anyTarget(), client, "hostile")...)
		case 4:
			return append([]byte{kindUnknown}, appendNumber(slices.Clone(inner), number)...)
		case 5:
			return appendNumber([]byte{kindTaken}, number)
		case 6:
			return appendNumber([]byte{kindWait}, number)
		case 7: // a message that it received, as it is or as another kind
			w.mu.Lock()
			defer w.mu.Unlock()
			if len(w.received) > 0 {
				m := bytes.Clone(w.received[dice.IntN(len(w.received))])
				m[0] = byte(dice.IntN(8))
				return m
			}
		default:
			if len(sent) > 0 { // a replay, with a flipped bit or cut short
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
			b := packet(client, anyTarget(), fmt.Sprint("client", step))
			if w.new.Relay(b) {
				taken[string(b)]++
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
			if taken[b]--; taken[b] < 0 {
				t.Errorf("a packet came back that was not relayed, or twice: %q", b)
			}
		}
		for _, b := range s.list(&s.taken) {
			if p, _, _ := parsePacket([]byte(b)); !may(p.dst) {
				t.Errorf("a packet for %s reached a flow", p.dst)
			}
		}
		for _, b := range s.list(&s.toClient) {
			if p, _, _ := parsePacket([]byte(b)); !may(p.src) {
				t.Errorf("a packet from %s went to a client", p.src)
			}
		}
	}
}
