package own_test

import (
	"testing"
	"time"

	"subnetrouter/internal/simnet"
	"subnetrouter/internal/simnet/gvisor"
	"subnetrouter/internal/simnet/own"
	"subnetrouter/internal/tcp"
)

// keepalive has the router's settings towards clients.
func keepalive(o *tcp.Options) {
	o.Keepalive = tcp.Keepalive{Idle: 2 * time.Hour, Interval: 75 * time.Second, Count: 9}
}

// both returns the same path, or changes, in both directions.
func both(changes ...simnet.Change) [2][]simnet.Change { return [2][]simnet.Change{changes, changes} }

// TestNamed runs situations of real networks, with the router's TCP as the passive end, towards itself and gVisor's.
func TestNamed(t *testing.T) {
	mib := 1 << 20
	if race {
		mib /= 8
	}
	wan := simnet.Path{Delay: 30 * time.Millisecond, Rate: 300e6 / 8, Queue: 2_250_000}
	with := func(edit func(*simnet.Path)) simnet.Path {
		p := wan
		edit(&p)
		return p
	}
	down := with(func(p *simnet.Path) { p.Down = true })
	duplex := func(size int) simnet.Script {
		return simnet.Script{A: simnet.Plan{Writes: []simnet.Write{{Size: size}}}, B: simnet.Plan{Writes: []simnet.Write{{Size: size}}}}
	}
	download := func(size int, edit func(*simnet.Script)) simnet.Script {
		s := simnet.Script{A: simnet.Plan{CloseLast: true}, B: simnet.Plan{Writes: []simnet.Write{{Size: size}}}}
		if edit != nil {
			edit(&s)
		}
		return s
	}
	for _, c := range []struct {
		name   string
		paths  [2][]simnet.Change
		script simnet.Script
		check  func(*testing.T, simnet.Result)
	}{
		{"loss of 1 %", both(simnet.Change{Path: with(func(p *simnet.Path) { p.Loss = 0.01 })}), duplex(8 * mib), nil},
		{"loss of 20 %", both(simnet.Change{Path: with(func(p *simnet.Path) { p.Loss = 0.2 })}), duplex(mib), nil},
		{"bursts of loss", both(simnet.Change{Path: with(func(p *simnet.Path) { p.BurstStart, p.BurstEnd, p.BurstLoss = 0.001, 0.02, 1 })}), duplex(8 * mib), nil},
		{"1 % arrive 5 ms late", both(simnet.Change{Path: with(func(p *simnet.Path) { p.Reorder, p.ReorderDelay = 0.01, 5*time.Millisecond })}), duplex(8 * mib), nil},
		{"a third out of order", both(simnet.Change{Path: with(func(p *simnet.Path) { p.Reorder, p.ReorderDelay = 0.3, 20*time.Millisecond })}), duplex(4 * mib), nil},
		{"duplicates", both(simnet.Change{Path: with(func(p *simnet.Path) { p.Duplicate = 0.2 })}), duplex(4 * mib), nil},
		{"corruption", both(simnet.Change{Path: with(func(p *simnet.Path) { p.Corrupt = 0.02 })}), duplex(4 * mib), nil},
		{"a smaller MTU in mid-flow", both(
			simnet.Change{Path: wan},
			simnet.Change{At: 300 * time.Millisecond, Path: with(func(p *simnet.Path) { p.MTU = 1280 })},
			simnet.Change{At: 600 * time.Millisecond, Path: with(func(p *simnet.Path) { p.MTU = 600 })},
		), duplex(8 * mib), nil},
		{"another path in mid-flow", both(
			simnet.Change{Path: wan},
			simnet.Change{At: 500 * time.Millisecond, Path: with(func(p *simnet.Path) { p.Delay = 150 * time.Millisecond })},
			simnet.Change{At: 2 * time.Second, Path: with(func(p *simnet.Path) { p.Delay, p.Rate = 2*time.Millisecond, 1e6 })},
		), duplex(8 * mib), nil},
		{"a reader pauses for ten minutes", both(simnet.Change{Path: wan}), download(4*mib, func(s *simnet.Script) {
			s.A.Pauses = []simnet.Pause{{At: int64(mib), For: 10 * time.Minute}}
		}), nil},
		{"both readers pause for ten minutes", both(simnet.Change{Path: wan}), func() simnet.Script {
			s := duplex(4 * mib)
			s.A.Pauses = []simnet.Pause{{At: int64(mib), For: 10 * time.Minute}}
			s.B.Pauses = []simnet.Pause{{At: int64(mib), For: 10 * time.Minute}}
			return s
		}(), nil},
		{"an idle client sleeps for an hour", both(
			simnet.Change{Path: wan},
			simnet.Change{At: time.Minute, Path: down},
			simnet.Change{At: 61 * time.Minute, Path: wan},
		), simnet.Script{
			A: simnet.Plan{Writes: []simnet.Write{{Size: 1000}, {After: 62 * time.Minute, Size: 1000}}, CloseLast: true},
			B: simnet.Plan{Writes: []simnet.Write{{Size: 1000}, {After: 63 * time.Minute, Size: 1000}}},
		}, nil},
		{"idle for a day", both(simnet.Change{Path: wan}), simnet.Script{
			A: simnet.Plan{Writes: []simnet.Write{{Size: 1000}, {After: 24 * time.Hour, Size: 1000}}, CloseLast: true},
			B: simnet.Plan{Writes: []simnet.Write{{Size: 1000}, {After: 25 * time.Hour, Size: 1000}}},
		}, nil},
		{"out of reach for ten minutes, with data due", both(
			simnet.Change{Path: wan},
			simnet.Change{At: 200 * time.Millisecond, Path: down},
			simnet.Change{At: 10 * time.Minute, Path: wan},
		), duplex(8 * mib), nil},
		{"half-close", both(simnet.Change{Path: wan}), simnet.Script{
			A: simnet.Plan{Writes: []simnet.Write{{Size: 1000}}},
			B: simnet.Plan{Writes: []simnet.Write{{After: time.Minute, Size: 4 * mib}}, CloseLast: true},
		}, func(t *testing.T, r simnet.Result) {
			if r.Seen[simnet.SeenHalfClose] == 0 {
				t.Error("nothing was read after the own end")
			}
		}},
		{"simultaneous close", both(simnet.Change{Path: wan}), func() simnet.Script {
			s := duplex(1000)
			s.A.CloseAt, s.B.CloseAt = 5*time.Second, 5*time.Second
			return s
		}(), func(t *testing.T, r simnet.Result) {
			if r.Seen[simnet.SeenCrossedFIN] == 0 {
				t.Error("the FINs did not cross")
			}
		}},
		{"the client aborts a download", both(simnet.Change{Path: with(func(p *simnet.Path) { p.Loss = 0.05 })}), download(64*mib, func(s *simnet.Script) {
			s.A.AbortAt = 2 * time.Second
		}), nil},
		{"the router aborts a download", both(simnet.Change{Path: with(func(p *simnet.Path) { p.Loss = 0.05 })}), download(64*mib, func(s *simnet.Script) {
			s.B.AbortAt = 2 * time.Second
		}), nil},
		{"acknowledgements are lost", [2][]simnet.Change{{{Path: with(func(p *simnet.Path) { p.Loss = 0.5 })}}, {{Path: wan}}}, download(8*mib, nil), nil},
	} {
		for _, peer := range []simnet.Subject{
			own.Subject(own.Options{Name: "keepalive", Edit: keepalive}),
			gvisor.Subject(gvisor.Options{}),
		} {
			ours := bbr()
			t.Run(c.name+", "+peer.Name, func(t *testing.T) {
				t.Parallel()
				script := c.script
				script.Buffers = [2]simnet.Buffers{{Send: 4 * mib, Receive: 4 * mib}, {Send: 4 * mib, Receive: 4 * mib}}
				heal := 10*time.Second + c.paths[0][len(c.paths[0])-1].At
				s := simnet.Scenario{Seed: 1, A: peer, B: ours, MTU: [2]int{1280, 1500}, Paths: c.paths, Heal: heal, Conns: []simnet.Script{script}}
				r := s.Run()
				if r.Failure != nil {
					t.Fatal(simnet.Report(t.Name(), 1, s, r.Failure, false))
				}
				if c.check != nil {
					c.check(t, r)
				}
			})
		}
	}
}
