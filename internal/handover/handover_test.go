package handover

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var (
	oldAddr, newAddr = netip.MustParseAddr("100.64.0.1"), netip.MustParseAddr("100.64.0.2")
	client           = netip.MustParseAddr("100.64.0.9")
	target           = netip.MustParseAddr("10.0.3.4")
	vpc              = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}
)

// pair is two routers with a network between them that loses what is told to be lost.
type pair struct {
	mu       sync.Mutex
	old, new *side
	lose     func(to netip.Addr, message []byte) bool
}

// side is one router around its Relay.
type side struct {
	*Relay
	addr      netip.Addr
	primary   []netip.Prefix // as the other sees it
	routes    []netip.Prefix
	healthy   atomic.Bool
	relays    bool
	flows     map[string]bool // packets that are of a flow here
	taken     []string        // by flows
	unclaimed []string
	toClient  []string
}

func newPair(t *testing.T, edit func(*pair)) *pair {
	t.Helper()
	p := &pair{lose: func(netip.Addr, []byte) bool { return false }}
	p.old = &side{addr: oldAddr, primary: vpc, routes: vpc, relays: true, flows: map[string]bool{}}
	p.new = &side{addr: newAddr, routes: vpc, relays: true, flows: map[string]bool{}}
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
		s.Relay = New(Config{
			Companions: func() []Companion {
				p.mu.Lock()
				defer p.mu.Unlock()
				return []Companion{{Name: "other", Addrs: []netip.Addr{other.addr}, Primary: other.primary}}
			},
			Routes:  func() []netip.Prefix { p.mu.Lock(); defer p.mu.Unlock(); return s.routes },
			Healthy: s.healthy.Load,
			Relays:  func() bool { return s.relays },
			Send: func(to netip.Addr, message []byte) {
				p.mu.Lock()
				lost := p.lose(to, message)
				p.mu.Unlock()
				if !lost && to == other.addr {
					other.Message(s.addr, message)
				}
			},
			ToFlow: func(packet []byte) bool {
				if !s.flows[string(packet)] {
					return false
				}
				s.taken = append(s.taken, string(packet))
				return true
			},
			Unclaimed: func(packet []byte) { s.unclaimed = append(s.unclaimed, string(packet)) },
			ToClient:  func(packet []byte) { s.toClient = append(s.toClient, string(packet)) },
			Logger:    slog.New(slog.DiscardHandler),
		})
	}
	for _, s := range []*side{p.old, p.new} {
		running.Go(func() { s.Run(ctx) })
	}
	return p
}

// packet is an IPv4 header with a word behind it.
func packet(src, dst netip.Addr, word string) []byte {
	b := make([]byte, 20, 20+len(word))
	b[0] = 0x45
	s, d := src.As4(), dst.As4()
	copy(b[12:], s[:])
	copy(b[16:], d[:])
	b = append(b, word...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	return b
}

func TestFlowsGoOnByWayOfTheSuccessor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		known, unknown := packet(client, target, "of a flow of old"), packet(client, target, "of none")
		p.old.flows[string(known)] = true
		if p.new.Elsewhere() || p.new.Take(known) {
			t.Error("taken while nobody drains")
		}
		if n := p.old.Begin(t.Context()); n != 1 {
			t.Fatalf("%d helpers, want 1", n)
		}
		synctest.Wait()
		if !p.new.Elsewhere() || !p.old.Active() {
			t.Fatal("nobody knows of the drain")
		}
		// Until the client shows where it is, answers go both ways.
		direct, via, prefix := p.old.Route(packet(target, client, "answer"))
		if !direct || !slices.Equal(via, []netip.Addr{newAddr}) {
			t.Errorf("direct %v, via %v, want both", direct, via)
		}
		if !p.new.Take(known) || !p.new.Take(unknown) {
			t.Error("a packet that is of no flow here was not passed on")
		}
		if !slices.Equal(p.old.taken, []string{string(known)}) || !slices.Equal(p.new.unclaimed, []string{string(unknown)}) {
			t.Errorf("old took %q, new got back %q", p.old.taken, p.new.unclaimed)
		}
		if direct, via, _ = p.old.Route(packet(target, client, "answer")); direct || !slices.Equal(via, []netip.Addr{newAddr}) {
			t.Errorf("direct %v, via %v, want via the successor only", direct, via)
		}
		answer := packet(target, client, "answer")
		p.new.Message(oldAddr, append(slices.Clone(prefix), answer...))
		if !slices.Equal(p.new.toClient, []string{string(answer)}) {
			t.Errorf("the client got %q", p.new.toClient)
		}
	})
}

func TestSuccessorForgets(t *testing.T) {
	for name, end := range map[string]func(p *pair, gone context.CancelFunc){
		"gone":    func(_ *pair, gone context.CancelFunc) { gone() },
		"crashed": func(p *pair, _ context.CancelFunc) { p.mu.Lock(); p.lose = lost; p.mu.Unlock() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, nil)
				p.old.Begin(t.Context())
				announcing, gone := context.WithCancel(t.Context())
				var done sync.WaitGroup
				done.Go(func() { p.old.Announce(announcing) })
				time.Sleep(time.Minute)
				if !p.new.Take(packet(client, target, "x")) {
					t.Error("a long drain was forgotten")
				}
				end(p, gone)
				time.Sleep(memory + time.Second)
				if p.new.Take(packet(client, target, "x")) {
					t.Error("packets still go to a router that is no more")
				}
				time.Sleep(memory)
				if p.new.Elsewhere() {
					t.Error("packets are still asked about")
				}
				gone()
				done.Wait()
			})
		})
	}
}

func lost(netip.Addr, []byte) bool { return true }

// What others may not do.
func TestLimitsOfTrust(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stranger := netip.MustParseAddr("100.64.0.66")
		p := newPair(t, nil)
		known := packet(client, target, "of a flow")
		p.old.flows[string(known)] = true
		p.old.Begin(t.Context())
		synctest.Wait()
		for what, message := range map[string][]byte{
			"a packet of a stranger for a flow":       append([]byte{kindForFlow}, known...),
			"a packet of a stranger for a client":     append([]byte{kindForClient}, packet(target, client, "x")...),
			"a packet of a stranger that comes back":  append([]byte{kindUnknown}, known...),
			"nothing":                                 nil,
			"an unknown kind":                         {99, 1, 2, 3},
			"a state that is no JSON":                 {kindState, '{'},
			"a packet cut short":                      {kindForFlow, 0x45, 0},
			"one for a client with a foreign address": append([]byte{kindForClient}, packet(netip.MustParseAddr("192.0.2.1"), client, "x")...),
		} {
			from := stranger
			if what == "one for a client with a foreign address" {
				from = oldAddr
			}
			p.old.Message(from, message)
			p.new.Message(from, message)
			synctest.Wait()
			if len(p.old.taken)+len(p.new.taken)+len(p.old.toClient)+len(p.new.toClient)+len(p.new.unclaimed) > 0 {
				t.Errorf("%s had an effect", what)
			}
		}
		// A router speaks for no more than control had given to it.
		p.mu.Lock()
		p.new.primary = nil
		p.mu.Unlock()
		claim, _ := json.Marshal(State{Routes: vpc, Relays: true, Draining: true})
		p.old.Message(newAddr, append([]byte{kindState}, claim...))
		synctest.Wait()
		p.old.Message(newAddr, append([]byte{kindForClient}, packet(target, client, "x")...))
		if p.old.Elsewhere() || len(p.old.toClient) > 0 {
			t.Error("a router that control had picked for nothing was believed")
		}
	})
}

func TestNobodyHelps(t *testing.T) {
	for name, edit := range map[string]func(*pair){
		"other routes":    func(p *pair) { p.new.routes = []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")} },
		"kernel mode":     func(p *pair) { p.new.relays = false },
		"own kernel mode": func(p *pair) { p.old.relays = false },
		"no answer":       func(p *pair) { p.lose = lost },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, edit)
				start := time.Now()
				if n := p.old.Begin(t.Context()); n != 0 || p.old.Active() {
					t.Errorf("%d helpers", n)
				}
				if took := time.Since(start); took > answerWait {
					t.Errorf("it took %v to find out", took)
				}
			})
		})
	}
}

func TestOthersWhoAreWell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		well := func() bool {
			return p.old.Others(t.Context(), func(s State) bool { return s.Healthy && s.Serves(vpc) })
		}
		if !well() {
			t.Error("the other router is well")
		}
		p.new.healthy.Store(false)
		if well() {
			t.Error("its probes fail, too")
		}
		p.new.healthy.Store(true)
		var first atomic.Bool // a lost datagram is sent again
		p.mu.Lock()
		p.lose = func(netip.Addr, []byte) bool { return first.CompareAndSwap(false, true) }
		p.mu.Unlock()
		if !well() {
			t.Error("one lost question decides")
		}
		p.new.Begin(t.Context())
		if well() {
			t.Error("it drains")
		}
	})
}

func FuzzMessage(f *testing.F) {
	f.Add(append([]byte{kindForFlow}, packet(client, target, "x")...))
	f.Add([]byte(`` + "\x01" + `{"routes":["10.0.0.0/16"],"draining":true,"answer":true}`))
	f.Fuzz(func(_ *testing.T, message []byte) {
		r := New(Config{
			Companions: func() []Companion { return []Companion{{Addrs: []netip.Addr{newAddr}, Primary: vpc}} },
			Routes:     func() []netip.Prefix { return vpc },
			Healthy:    func() bool { return true },
			Relays:     func() bool { return true },
			Send:       func(netip.Addr, []byte) {},
			ToFlow:     func([]byte) bool { return false },
			Unclaimed:  func([]byte) {},
			ToClient:   func([]byte) {},
			Logger:     slog.New(slog.DiscardHandler),
		})
		r.Message(newAddr, message)
		if len(message) > 1 && message[0] == kindState {
			r.hear(newAddr, message[1:])
		}
	})
}
