package handover

import (
	"context"
	"encoding/binary"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"subnetrouter/internal/packet"
)

var (
	oldAddr, newAddr = netip.MustParseAddr("100.64.0.1"), netip.MustParseAddr("100.64.0.2")
	client           = netip.MustParseAddr("100.64.0.9")
	target           = netip.MustParseAddr("10.0.3.4")
	vpc              = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}
)

// pair is two routers and a network between them, which loses the messages for which lose
// returns true.
type pair struct {
	mu       sync.Mutex
	old, new *side
	lose     func(to netip.Addr, message []byte) bool
	messages int
}

// side is one router: its Coordinator, and fakes of its node and data path.
type side struct {
	*Coordinator
	addr     netip.Addr
	routes   []netip.Prefix
	healthy  atomic.Bool
	canRelay bool

	mu        sync.Mutex
	flows     map[string]bool // packets that belong to a flow here
	denied    map[string]bool // packets that the deny list or the access rules refuse
	taken     []string        // packets that flows took
	unclaimed []string
	toClient  []string
}

func (s *side) note(list *[]string, packet []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*list = append(*list, string(packet))
}

// packetsMoved counts the packets that reached a flow, came back or went to a client.
func (s *side) packetsMoved() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.taken) + len(s.unclaimed) + len(s.toClient)
}

func (s *side) list(which *[]string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(*which)
}

// giveRoutes has control give the VPC's routes to one of the routers.
func (p *pair) giveRoutes(to *side) {
	routesOf := func(s *side) []netip.Prefix {
		if s == to {
			return vpc
		}
		return nil
	}
	p.old.SetPeers(routesOf(p.old), []Node{{Name: "new", Addrs: []netip.Addr{newAddr}, Online: true, Routes: routesOf(p.new)}})
	p.new.SetPeers(routesOf(p.new), []Node{{Name: "old", Addrs: []netip.Addr{oldAddr}, Online: true, Routes: routesOf(p.old)}})
}

func newPair(t *testing.T, edit func(*pair)) *pair {
	t.Helper()
	p := &pair{lose: func(netip.Addr, []byte) bool { return false }}
	p.old = &side{addr: oldAddr, routes: vpc, canRelay: true, flows: map[string]bool{}, denied: map[string]bool{}}
	p.new = &side{addr: newAddr, routes: vpc, canRelay: true, flows: map[string]bool{}, denied: map[string]bool{}}
	p.old.healthy.Store(true)
	p.new.healthy.Store(true)
	if edit != nil {
		edit(p)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait() })
	for _, s := range []*side{p.old, p.new} {
		other := p.new
		if s == p.new {
			other = p.old
		}
		s.Coordinator = New(Config{
			Routes:   func() []netip.Prefix { p.mu.Lock(); defer p.mu.Unlock(); return s.routes },
			Healthy:  s.healthy.Load,
			CanRelay: func() bool { return s.canRelay },
			MaxDrain: time.Minute,
			Send: func(to netip.Addr, message []byte) {
				p.mu.Lock()
				lost := p.lose(to, message)
				p.messages++
				p.mu.Unlock()
				if !lost && to == other.addr {
					other.Receive(s.addr, message)
				}
			},
			Deliver: func(packet []byte) Outcome {
				switch {
				case s.denied[string(packet)]:
					return Refused
				case !s.flows[string(packet)]:
					return Unknown
				}
				s.note(&s.taken, packet)
				return Delivered
			},
			DeliverUnclaimed: func(packet []byte) { s.note(&s.unclaimed, packet) },
			SendToClient:     func(packet []byte) { s.note(&s.toClient, packet) },
			Logger:           slog.New(slog.DiscardHandler),
		})
	}
	p.giveRoutes(p.old)
	for _, s := range []*side{p.old, p.new} {
		running.Go(func() { s.Run(ctx) })
	}
	return p
}

// drain begins the drain of the old router, and has control move the routes.
func (p *pair) drain(t *testing.T) {
	t.Helper()
	if n := p.old.BeginDrain(t.Context()); n != 1 {
		t.Fatalf("%d helpers, want 1", n)
	}
	time.Sleep(10 * time.Millisecond) // the new router reads the old one's state
	p.giveRoutes(p.new)
}

// ipPacket returns the IPv4 header of a UDP datagram, followed by a word.
func ipPacket(src, dst netip.Addr, word string) []byte {
	b := make([]byte, 20, 20+len(word))
	b[0], b[9] = 0x45, packet.ProtoUDP
	s, d := src.As4(), dst.As4()
	copy(b[12:], s[:])
	copy(b[16:], d[:])
	b = append(b, word...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	return b
}

// segment returns a packet with TCP's protocol number.
func segment(src, dst netip.Addr, word string) []byte {
	b := ipPacket(src, dst, word)
	b[9] = 6
	return b
}

func relayed(packet []byte, number uint64) []byte {
	return appendNumber(append([]byte{kindRelayed}, packet...), number)
}

func loseAll(netip.Addr, []byte) bool { return true }

func TestFlowsContinueThroughSuccessor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		known, unknown := ipPacket(client, target, "of a flow of old"), ipPacket(client, target, "of none")
		p.old.flows[string(known)] = true
		if p.new.MayHaveFlow() || p.new.Relay(known) {
			t.Error("a packet was relayed while no router drains")
		}
		p.drain(t)
		if !p.new.MayHaveFlow() || !p.old.Active() {
			t.Fatal("the new router does not know of the drain")
		}
		// Until the new router has relayed the client's packets, answers go both ways.
		answer := ipPacket(target, client, "answer")
		direct, via, prefix := p.old.Route(answer)
		if !direct || via != newAddr {
			t.Errorf("direct %v, via %v, want both", direct, via)
		}
		if !p.new.Relay(known) || !p.new.Relay(unknown) {
			t.Error("a packet without a flow here was not relayed")
		}
		if got := p.old.list(&p.old.taken); !slices.Equal(got, []string{string(known)}) {
			t.Errorf("old took %q", got)
		}
		if got := p.new.list(&p.new.unclaimed); !slices.Equal(got, []string{string(unknown)}) {
			t.Errorf("new took back %q", got)
		}
		if direct, via, _ = p.old.Route(answer); direct || via != newAddr {
			t.Errorf("direct %v, via %v, want via the successor only", direct, via)
		}
		p.new.Receive(oldAddr, append(slices.Clone(prefix), answer...))
		if got := p.new.list(&p.new.toClient); !slices.Equal(got, []string{string(answer)}) {
			t.Errorf("the client got %q", got)
		}
		time.Sleep(returnWithin + time.Second)
		if got := p.new.list(&p.new.unclaimed); len(got) != 1 {
			t.Errorf("datagrams were delivered here though the old router has their flow: %q", got)
		}
		if packets, clients := p.new.pending.size(); packets+clients > 0 {
			t.Errorf("%d pending packets of %d clients are left", packets, clients)
		}
	})
}

// TestRetransmittedSYNACK: the first SYN-ACK of a flow goes to the successor, too. A
// retransmitted one does not, whether or not the successor was known when the first was sent:
// the client has retransmitted its SYN to the successor, which opens the connection itself.
func TestRetransmittedSYNACK(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		tcp := func(port byte, flags byte) []byte {
			return segment(target, client, string([]byte{0, 80, 0, port, 12: 5 << 4, flags, 19: 0}))
		}
		const synAck, ack = 0x12, 0x10
		p.giveRoutes(p.old)
		if n := p.old.BeginDrain(t.Context()); n != 1 {
			t.Fatalf("%d helpers", n)
		}
		if _, via, _ := p.old.Route(tcp(1, synAck)); via.IsValid() {
			t.Fatalf("via %v before the routes have moved", via)
		}
		p.giveRoutes(p.new)
		for _, step := range []struct {
			name string
			tcp  []byte
			via  netip.Addr
		}{
			{"the second SYN-ACK of a flow from before the move", tcp(1, synAck), netip.Addr{}},
			{"data of that flow", tcp(1, ack), newAddr},
			{"the first SYN-ACK of another flow", tcp(2, synAck), newAddr},
			{"its second", tcp(2, synAck), netip.Addr{}},
			{"its data", tcp(2, ack), newAddr},
		} {
			if direct, via, _ := p.old.Route(step.tcp); !direct || via != step.via {
				t.Errorf("%s: direct %v, via %v, want via %v", step.name, direct, via, step.via)
			}
		}
	})
}

// TestSuccessorLearnsFirst gives clients and the new router the netmap with the moved routes
// before the old router: no datagram is lost or delivered at the wrong router.
func TestSuccessorLearnsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		known, unknown, syn := ipPacket(client, target, "of a flow of old"), ipPacket(client, target, "of none"), segment(client, target, "segment")
		p.old.flows[string(known)], p.old.flows[string(syn)] = true, true
		if n := p.old.BeginDrain(t.Context()); n != 1 {
			t.Fatalf("%d helpers", n)
		}
		time.Sleep(10 * time.Millisecond)
		for _, b := range [][]byte{known, unknown, syn} {
			if !p.new.Relay(b) {
				t.Fatal("not relayed")
			}
		}
		time.Sleep(time.Second)
		if p.old.packetsMoved()+p.new.packetsMoved() > 0 {
			t.Errorf("before control moved the routes: old took %q, new took back %q", p.old.taken, p.new.unclaimed)
		}
		p.giveRoutes(p.new)
		time.Sleep(2 * retryEvery)
		got := p.old.list(&p.old.taken)
		slices.Sort(got)
		want := []string{string(known), string(syn)}
		if slices.Sort(want); !slices.Equal(got, want) {
			t.Errorf("old took %q, want the datagram and the segment", got)
		}
		if got := p.new.list(&p.new.unclaimed); !slices.Equal(got, []string{string(unknown)}) {
			t.Errorf("new took back %q", got)
		}
	})
}

// TestAnnouncementAfterControl has control move the routes before the old router's
// announcement reaches the new one, as when another node's claim answers BeginDrain at once.
func TestAnnouncementAfterControl(t *testing.T) {
	for _, tt := range []struct {
		late time.Duration
		want bool
	}{{time.Second, true}, {lostRouteTTL + time.Second, false}} {
		synctest.Test(t, func(t *testing.T) {
			p := newPair(t, nil)
			p.giveRoutes(p.new)
			time.Sleep(tt.late)
			p.old.BeginDrain(t.Context())
			time.Sleep(10 * time.Millisecond)
			if got := p.new.Relay(segment(client, target, "x")); got != tt.want {
				t.Errorf("announced %v after control moved the routes: relayed %v, want %v", tt.late, got, tt.want)
			}
		})
	}
}

// TestDrainingRouterDies has a router die during its drain: it delays a new UDP flow by
// answerWithin, not by silentAfter.
func TestDrainingRouterDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		p.drain(t)
		p.mu.Lock()
		p.lose = loseAll
		p.mu.Unlock()
		first := ipPacket(client, target, "first of a flow")
		if !p.new.Relay(first) {
			t.Fatal("not relayed")
		}
		time.Sleep(answerWithin + time.Millisecond)
		if got := p.new.list(&p.new.unclaimed); !slices.Equal(got, []string{string(first)}) {
			t.Errorf("after %v new took %q", answerWithin, got)
		}
	})
}

func TestDrainEndsWithRouter(t *testing.T) {
	for name, end := range map[string]func(p *pair, gone context.CancelFunc){
		"gone":    func(_ *pair, gone context.CancelFunc) { gone() },
		"crashed": func(p *pair, _ context.CancelFunc) { p.mu.Lock(); p.lose = loseAll; p.mu.Unlock() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, nil)
				p.drain(t)
				announcing, gone := context.WithCancel(t.Context())
				var done sync.WaitGroup
				done.Go(func() { p.old.Announce(announcing) })
				time.Sleep(time.Minute)
				if !p.new.Relay(segment(client, target, "x")) {
					t.Error("a long drain counts as over")
				}
				end(p, gone)
				time.Sleep(silentAfter + time.Second)
				if p.new.Relay(segment(client, target, "x")) {
					t.Error("a packet was relayed to a router that has ended")
				}
				if p.new.MayHaveFlow() {
					t.Error("packets still cost a look-up of their flow")
				}
				gone()
				done.Wait()
			})
		})
	}
}

// TestLostAnswerKeepsFlow loses the answer to a datagram of a flow of the draining router:
// the pending packet must not open a second flow here.
func TestLostAnswerKeepsFlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		known := append(ipPacket(client, target, ""), 0, 1, 0, 2, 0, 8, 0, 0)
		binary.BigEndian.PutUint16(known[2:], uint16(len(known)))
		p.old.flows[string(known)] = true
		p.drain(t)
		p.new.Relay(known)
		p.mu.Lock()
		p.lose = func(to netip.Addr, _ []byte) bool { return to == newAddr }
		p.mu.Unlock()
		p.new.Relay(known)
		time.Sleep(time.Second)
		if got := p.new.list(&p.new.unclaimed); len(got) > 0 {
			t.Errorf("new took %q", got)
		}
		if got := p.old.list(&p.old.taken); len(got) != 2 {
			t.Errorf("old took %q", got)
		}
	})
}

// TestDrainsEndAtDeadline announces a drain for half a day: after the longest drain of the
// service, announcements have no effect.
func TestDrainsEndAtDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		p.drain(t)
		announcing, gone := context.WithCancel(t.Context())
		var done sync.WaitGroup
		done.Go(func() { p.old.Announce(announcing) })
		time.Sleep(minDrainLimit - time.Second)
		if !p.new.Relay(ipPacket(client, target, "x")) {
			t.Error("the drain ended too early")
		}
		time.Sleep(2 * time.Second)
		for range 12 {
			if p.new.MayHaveFlow() || p.new.Relay(ipPacket(client, target, "x")) {
				t.Fatal("a packet was relayed to a router that has drained for too long")
			}
			p.new.Receive(oldAddr, append([]byte{kindForClient}, ipPacket(target, client, "x")...))
			time.Sleep(time.Hour)
		}
		if len(p.new.list(&p.new.toClient)) > 0 {
			t.Error("a packet was sent to a client after the drain")
		}
		gone()
		done.Wait()
	})
}

// TestControlMovesRoutesAgain has control give the routes to a third router during the drain.
func TestControlMovesRoutesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		p.drain(t)
		if !p.new.Relay(ipPacket(client, target, "x")) {
			t.Error("not relayed during the drain")
		}
		p.new.SetPeers(nil, []Node{
			{Name: "old", Addrs: []netip.Addr{oldAddr}, Online: true},
			{Name: "third", Addrs: []netip.Addr{netip.MustParseAddr("100.64.0.3")}, Online: true, Routes: vpc},
		})
		if p.new.Relay(ipPacket(client, target, "x")) {
			t.Error("relayed though a third router has the routes")
		}
	})
}

func TestHelpers(t *testing.T) {
	for name, edit := range map[string]func(*pair){
		"other routes":    func(p *pair) { p.new.routes = []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")} },
		"kernel mode":     func(p *pair) { p.new.canRelay = false },
		"own kernel mode": func(p *pair) { p.old.canRelay = false },
		"no answer":       func(p *pair) { p.lose = loseAll },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, edit)
				start := time.Now()
				if n := p.old.BeginDrain(t.Context()); n != 0 || p.old.Active() {
					t.Errorf("%d helpers", n)
				}
				if took := time.Since(start); took > answerWait {
					t.Errorf("BeginDrain took %v, want at most %v", took, answerWait)
				}
			})
		})
	}
}

func TestAskPeersHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		healthy := func() bool {
			return p.old.AskPeers(t.Context(), func(s State) bool { return s.Healthy && s.Serves(vpc) })
		}
		if !healthy() {
			t.Error("a healthy router does not count")
		}
		p.new.healthy.Store(false)
		if healthy() {
			t.Error("a router whose probes fail counts as healthy")
		}
		p.new.healthy.Store(true)
		var first atomic.Bool // the first request is lost
		p.mu.Lock()
		p.lose = func(netip.Addr, []byte) bool { return first.CompareAndSwap(false, true) }
		p.mu.Unlock()
		if !healthy() {
			t.Error("a lost request is not sent again")
		}
		p.new.BeginDrain(t.Context())
		if healthy() {
			t.Error("a draining router counts")
		}
	})
}

func FuzzMessage(f *testing.F) {
	f.Add(append([]byte{kindRelayed}, ipPacket(client, target, "x")...))
	f.Add(relayed(ipPacket(client, target, "x"), 7))
	f.Add(append([]byte{kindForClient}, ipPacket(target, client, "x")...))
	f.Add([]byte("\x01" + `{"routes":["10.0.0.0/16"],"draining":true,"answer":true}`))
	f.Fuzz(func(t *testing.T, message []byte) {
		for _, draining := range []bool{false, true} {
			r := New(Config{
				Routes:           func() []netip.Prefix { return vpc },
				Healthy:          func() bool { return true },
				CanRelay:         func() bool { return true },
				Send:             func(netip.Addr, []byte) {},
				Deliver:          func([]byte) Outcome { return Unknown },
				DeliverUnclaimed: func([]byte) { t.Error("a packet that was never relayed came back") },
				SendToClient:     func([]byte) { t.Error("a packet went to a client without a drain") },
				Logger:           slog.New(slog.DiscardHandler),
			})
			r.SetPeers(nil, []Node{{Addrs: []netip.Addr{newAddr}, Routes: vpc, Online: true}})
			r.draining, r.servedRoutes = draining, vpc
			r.Receive(newAddr, message)
			if len(message) > 1 && message[0] == kindState {
				r.handleState(newAddr, message[1:])
			}
		}
	})
}
