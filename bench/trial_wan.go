package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"subnetrouter/bench/load"
	"subnetrouter/bench/target"
	"subnetrouter/internal/netnstest"
)

// wanGroup is the group of rows over a wire. It has a network of its own, and its subjects
// differ from those of other groups.
const wanGroup = "wan"

// wireQueue is the longest time that a packet waits for its transmission on the wire.
const wireQueue = 60 * time.Millisecond

// path is the client's line to the internet during a trial.
type path struct {
	name   string
	rtt    time.Duration
	change func(*netnstest.DirectionOptions) // nil: nothing but delay and rate
	lossy  bool                              // random, so that rounds differ by factors
}

func lossPath(rtt time.Duration, loss float64) path {
	return path{
		name: fmt.Sprintf("%d ms, %g %% loss", rtt.Milliseconds(), 100*loss),
		rtt:  rtt, lossy: loss > 0,
		change: func(o *netnstest.DirectionOptions) { o.Loss = loss },
	}
}

// An outage loses the packets that are sent within outageTime: at 300 Mbit/s some 50.
const (
	outageEvery = 2 * time.Second
	outageTime  = 2 * time.Millisecond
)

func outage(rtt time.Duration) path {
	return path{name: "outage", rtt: rtt, change: func(o *netnstest.DirectionOptions) { o.Loss = 1 }}
}

// use makes the wire the path, with the seeds of the measurement's round, and returns a
// function that makes it a short cable again.
func (m *measurement) use(p path) (restore func(), err error) {
	o := netnstest.DirectionOptions{
		Delay: p.rtt / 2, Rate: m.rate * 1e6, Queue: wireQueue, Seed: uint64(m.round) + 1,
	}
	if p.change != nil {
		p.change(&o)
	}
	return func() { m.wire.SetOptions(netnstest.WireOptions{}) }, m.wire.SetOptions(netnstest.Symmetric(o))
}

func wanTrials(s scale) (list []trial) {
	add := func(p path, rows []row, run func(context.Context, *measurement) error) *trial {
		t := trial{group: wanGroup, rows: rows, rounds: s.cleanRounds, wire: true}
		if p.lossy {
			t.rounds = s.lossyRounds
		}
		for i := range t.rows {
			t.rows[i].minMax = true
		}
		t.run = func(ctx context.Context, m *measurement) error {
			restore, err := m.use(p)
			if err != nil {
				return err
			}
			defer restore()
			return run(ctx, m)
		}
		list = append(list, t)
		return &list[len(list)-1]
	}
	streams := func(p path, name string, n int) *trial {
		up, down := speedRow("up", name), speedRow("down", name)
		rows := []row{down, up}
		fair := row{name: down.name + ": Jain's index"}
		if n > 1 {
			rows = append(rows, fair)
		}
		return add(p, rows, func(ctx context.Context, m *measurement) error {
			first := m.measureSpeed(ctx, down, stream("down", s, n), func(r load.Result) {
				if n > 1 {
					m.set(fair.name, r.Fairness)
				}
			})
			// The rest of the download has to leave the wire, and the upload has the same
			// sequence of losses.
			const rest = time.Second
			if err := m.sleep(rest); err != nil {
				return err
			}
			if _, err := m.use(p); err != nil {
				return err
			}
			return errors.Join(first, m.setSpeed(ctx, up, stream("up", s, n)))
		})
	}

	const usual = 60 * time.Millisecond
	for _, rtt := range []time.Duration{20 * time.Millisecond, usual, 150 * time.Millisecond} {
		for _, loss := range []float64{0, 0.001, 0.01} {
			p := lossPath(rtt, loss)
			streams(p, p.name, 1)
		}
	}
	for _, loss := range []float64{0, 0.001} {
		p := lossPath(usual, loss)
		streams(p, p.name+", 8 streams", 8)
	}
	for _, loss := range []float64{0, 0.001} {
		p := lossPath(usual, loss)
		for _, megabytes := range []int64{2, 20} {
			rows, run := fetchRows(p, megabytes)
			add(p, rows, run)
		}
	}
	for _, p := range []path{
		{"60 ms, 1 % of packets 5 ms late", usual, func(o *netnstest.DirectionOptions) {
			o.Reorder, o.ReorderBy = 0.01, 5*time.Millisecond
		}, true},
		{"60 ms, 0.1 % lost in bursts of 8", usual, func(o *netnstest.DirectionOptions) {
			// The share of the bad state is Enter/(Enter+Leave).
			o.BurstLoss = netnstest.BurstLoss{Enter: 0.125 * 0.001 / 0.999, Leave: 0.125, Loss: 1}
		}, true},
		{"60 ms, policer at 50 Mbit/s", usual, func(o *netnstest.DirectionOptions) {
			o.Policer = netnstest.Policer{Rate: 50e6, Burst: 256 << 10}
		}, false},
	} {
		streams(p, p.name, 1)
	}

	clean := lossPath(usual, 0)
	burst := speedRow("down", "60 ms, some 50 packets lost each 2 s")
	add(clean, []row{burst}, func(ctx context.Context, m *measurement) error {
		return m.during(ctx, stream("down", s, 1), func() error {
			for left := s.stream; left > outageEvery; left -= outageEvery {
				if err := m.sleep(outageEvery); err != nil {
					return err
				}
				if _, err := m.use(outage(usual)); err != nil {
					return err
				}
				if err := m.sleep(outageTime); err != nil {
					return err
				}
				if _, err := m.use(clean); err != nil {
					return err
				}
			}
			return nil
		}, func(r load.Result) error { return m.recordSpeed(burst, r) })
	})
	moved := speedRow("down", "60 ms, then 120 ms")
	add(clean, []row{moved}, func(ctx context.Context, m *measurement) error {
		return m.during(ctx, stream("down", s, 1), func() error {
			if err := m.sleep(s.stream / 2); err != nil {
				return err
			}
			_, err := m.use(lossPath(2*usual, 0))
			return err
		}, func(r load.Result) error { return m.recordSpeed(moved, r) })
	})

	shared := speedRow("down", "60 ms, beside a plain cubic flow")
	other := row{name: shared.name + ": the plain flow", unit: shared.unit}
	add(clean, []row{shared, other}, func(ctx context.Context, m *measurement) error {
		ours, plainly := stream("down", s, 1), load.Stream{Address: fmt.Sprintf("%s:%d", neighborIP, target.SourcePort), Streams: 1, Down: true}
		for _, g := range []*load.Stream{&ours, &plainly} { // shares settle slowly
			g.For, g.Skip = 3*s.stream, s.stream/2
		}
		return m.during(ctx, plainly, func() error { return m.setSpeed(ctx, shared, ours) },
			func(r load.Result) error { return m.recordSpeed(other, r) })
	})

	const pings = "ping during TCP down, 60 ms, a queue of 250 ms: "
	p50, p95 := row{name: pings + "p50", unit: "ms"}, row{name: pings + "p95", unit: "ms"}
	longQueue := path{"60 ms, a queue of 250 ms", usual, func(o *netnstest.DirectionOptions) { o.Queue = 250 * time.Millisecond }, false}
	add(longQueue, []row{p50, p95}, func(ctx context.Context, m *measurement) error {
		return m.during(ctx, stream("down", s, 1), func() error {
			const every, each, starting, least = 50 * time.Millisecond, 2 * time.Second, time.Second, 10
			if err := m.sleep(starting); err != nil {
				return err
			}
			r, err := m.load(ctx, load.Ping{Address: vpcHost.String(), Count: max(least, int((s.stream-2*starting)/every)), Every: every, Each: each})
			if err == nil {
				err = noneDone(r)
			}
			if err == nil {
				m.set(p50.name, ms(r.P50))
				m.set(p95.name, ms(r.P95))
			}
			return err
		}, func(load.Result) error { return nil })
	})

	for _, n := range []int{100, 1000} {
		down := speedRow("down", fmt.Sprintf("60 ms, beside %s idle connections", count(n)))
		add(clean, []row{down}, func(ctx context.Context, m *measurement) error {
			release, err := m.holdAll(ctx, "tcp", n, 500)
			defer release()
			if err != nil {
				return err
			}
			return m.setSpeed(ctx, down, stream("down", s, 1))
		})
	}

	small := streams(clean, "60 ms, 0.25 vCPU", 1)
	small.limits, small.noPlain = limits{cpus: 0.25}, true
	return list
}

func speedRow(direction, name string) row {
	return row{name: "TCP " + direction + ", " + name, unit: "Mbit/s", minMax: true}
}

// stream returns a generator of n streams through the router.
func stream(direction string, s scale, n int) load.Stream {
	port := target.SinkPort
	if direction == "down" {
		port = target.SourcePort
	}
	return load.Stream{Address: at(port), Streams: n, Down: direction == "down", For: s.stream}
}

// setSpeed records the throughput of streams in a row of speedRow.
func (m *measurement) setSpeed(ctx context.Context, w row, g load.Stream) error {
	return m.measureSpeed(ctx, w, g, func(load.Result) {})
}

// measureSpeed is setSpeed, and passes the result to also.
func (m *measurement) measureSpeed(ctx context.Context, w row, g load.Stream, also func(load.Result)) error {
	r, err := m.load(ctx, g)
	if err == nil {
		err = m.recordSpeed(w, r)
	}
	if err == nil {
		also(r)
	}
	if err != nil {
		m.fail(w.name, err)
	}
	return err
}

func (m *measurement) recordSpeed(w row, r load.Result) error {
	if r.Failed > 0 {
		return fmt.Errorf("%d of %d streams broke: %s", r.Failed, r.Failed+r.Done, r.Why)
	}
	m.set(w.name, r.PerSecond(float64(r.Bytes)*8/1e6))
	return nil
}

// during runs f while a generator runs, and passes its result to record.
func (m *measurement) during(ctx context.Context, g load.Generator, f func() error, record func(load.Result) error) error {
	text, err := load.Encode(g)
	if err != nil {
		return err
	}
	p, err := m.beginRole(m.client, "load", text)
	if err != nil {
		return err
	}
	defer p.close()
	if err := f(); err != nil {
		return err
	}
	r, err := p.wait(ctx)
	if err != nil {
		return err
	}
	return record(r)
}

// fetchRows returns rows with the median duration of transfers of a file, each over a new
// connection, and the function that measures them.
func fetchRows(p path, megabytes int64) ([]row, func(context.Context, *measurement) error) {
	name := func(direction string) string {
		return fmt.Sprintf("file of %d MB %s, %s", megabytes, direction, p.name)
	}
	down, up := row{name: name("down"), unit: "s"}, row{name: name("up"), unit: "s"}
	fetch := func(ctx context.Context, m *measurement, w row, g load.Fetch) error {
		// A transfer of 20 MB takes up to half a minute with loss.
		g.Size, g.Count, g.Pause, g.Each = megabytes*1e6, 1, 500*time.Millisecond, time.Minute
		if megabytes < 10 {
			g.Count = 3
		}
		r, err := m.load(ctx, g)
		if err == nil {
			err = noneDone(r)
		}
		if err != nil {
			m.fail(w.name, err)
			return err
		}
		m.set(w.name, r.P50.Seconds())
		return nil
	}
	return []row{down, up}, func(ctx context.Context, m *measurement) error {
		return errors.Join(
			fetch(ctx, m, down, load.Fetch{Address: at(target.FilePort)}),
			fetch(ctx, m, up, load.Fetch{Address: at(target.SinkPort), Up: true}))
	}
}
