package main

import (
	"context"
	"fmt"
	"time"

	"subnetrouter/bench/load"
	"subnetrouter/bench/target"
)

func connectionTrials(s scale) []trial {
	return []trial{
		connectionTrial(s, "client closes first", 0.6, load.Connect{
			Addresses: everyHost(target.EchoPort), Workers: s.atOnce, For: s.connect, Each: 5 * time.Second,
		}),
		// One host and port, and the client's default range of ports: ports that the
		// server has in TIME-WAIT are soon reused.
		connectionTrial(s, "server closes first, one host:port", 0, load.Connect{
			Addresses: []string{at(target.HangupPort)}, ServerCloses: true, Workers: s.atOnce, For: s.hangup, Each: 3 * time.Second,
		}),
	}
}

func connectionTrial(s scale, how string, maxCPU float64, g load.Connect) trial {
	names := namesOfConnections(fmt.Sprintf("new TCP connections, %d at a time, %s: ", s.atOnce, how))
	group := "connect"
	if g.ServerCloses {
		group = "hangup"
	}
	return trial{
		group: group, rows: names.rows(maxCPU),
		run: func(ctx context.Context, m *measurement) error {
			r, used, err := m.loadCPU(ctx, g)
			if err != nil {
				return err
			}
			return names.set(m, r, used)
		},
	}
}

// connectionNames has the names of the rows about new connections.
type connectionNames struct{ rate, p50, p99, failed, cpu string }

func namesOfConnections(prefix string) connectionNames {
	return connectionNames{rate: prefix + "rate", p50: prefix + "p50", p99: prefix + "p99", failed: prefix + "failed", cpu: prefix + "CPU each"}
}

func (n connectionNames) rows(maxCPU float64) []row {
	return []row{{name: n.rate, unit: "1/s"}, {name: n.p50, unit: "ms"}, {name: n.p99, unit: "ms"},
		{name: n.failed, unit: ""}, {name: n.cpu, unit: "µs", maxRatio: maxCPU}}
}

// set sets the values of a load, or returns an error if no connection was made.
func (n connectionNames) set(m *measurement, r load.Result, used time.Duration) error {
	m.set(n.failed, float64(r.Failed))
	if err := noneDone(r); err != nil {
		return err
	}
	m.set(n.rate, r.PerSecond(float64(r.Done)))
	m.set(n.p50, ms(r.P50))
	m.set(n.p99, ms(r.P99))
	m.setCPU(n.cpu, used, time.Microsecond, float64(r.Done))
	return nil
}

func burstTrials(s scale) (list []trial) {
	for _, n := range s.bursts {
		prefix := fmt.Sprintf("burst of %s connections: ", count(n))
		lost, p99, peak := prefix+"lost", prefix+"p99", prefix+"peak RSS"
		list = append(list, trial{
			group: "burst",
			rows:  []row{{name: lost, unit: ""}, {name: p99, unit: "ms", maxRatio: 0.6}, {name: peak, unit: "MiB", maxRatio: 0.3}},
			run: func(ctx context.Context, m *measurement) error {
				if err := resetPeak(m.r.pids); err != nil {
					return err
				}
				restore, err := m.world.widenClientQueue()
				if err != nil {
					return err
				}
				defer restore()
				r, err := m.load(ctx, load.Burst{Address: at(target.EchoPort), Count: n, Each: 15 * time.Second})
				if err != nil {
					return err
				}
				m.set(lost, float64(r.Failed))
				mem, err := memoryOf(m.r.pids)
				if err != nil {
					return err
				}
				m.setMemory(peak, mem.peak)
				if err := noneDone(r); err != nil {
					return err
				}
				m.set(p99, ms(r.P99))
				return nil
			},
		})
	}
	return list
}
