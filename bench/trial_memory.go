package main

import (
	"context"
	"fmt"
	"time"

	"subnetrouter/bench/load"
	"subnetrouter/bench/target"
)

const idleRow = "RSS idle"

func memoryTrials(s scale) []trial {
	perTCP := "memory per idle TCP flow"
	tcp := trial{group: "memory", noPlain: true, rows: []row{{name: idleRow, unit: "MiB", maxRatio: 0.7}}}
	for _, n := range s.idleFlows {
		tcp.rows = append(tcp.rows, row{name: "RSS with " + count(n) + " idle TCP flows", unit: "MiB"})
	}
	tcp.rows = append(tcp.rows, row{name: perTCP, unit: "KiB", maxRatio: 0.4})
	tcp.run = func(ctx context.Context, m *measurement) error {
		idle, err := m.settledMemory(s)
		if err != nil {
			return err
		}
		m.setMemory(idleRow, idle)
		open := 0
		for i, n := range s.idleFlows {
			// About the rate at which the slowest subject connects.
			release, err := m.holdAll(ctx, "tcp", n-open, 1500)
			defer release()
			if err != nil {
				return err
			}
			open = n
			rss, err := m.settledMemory(s)
			if err != nil {
				return err
			}
			m.setMemory(tcp.rows[1+i].name, rss)
			if i == len(s.idleFlows)-1 {
				m.set(perTCP, float64(rss-idle)/1024/float64(n))
			}
		}
		return nil
	}

	rss, perUDP, cpuUDP := "RSS with "+count(s.udpFlows)+" UDP flows", "memory per UDP flow", "CPU per new UDP flow"
	udp := trial{
		group: "memory", noPlain: true,
		rows: []row{{name: rss, unit: "MiB"}, {name: perUDP, unit: "KiB", maxRatio: 0.25}, {name: cpuUDP, unit: "µs", maxRatio: 0.4}},
		run: func(ctx context.Context, m *measurement) error {
			idle, err := m.settledMemory(s)
			if err != nil {
				return err
			}
			release := func() {}
			used, err := m.cpu(func() (err error) {
				release, err = m.holdAll(ctx, "udp", s.udpFlows, s.flowRate)
				return err
			})
			defer release()
			if err != nil {
				return err
			}
			m.setCPU(cpuUDP, used, time.Microsecond, float64(s.udpFlows))
			now, err := m.settledMemory(s)
			if err != nil {
				return err
			}
			m.setMemory(rss, now)
			m.set(perUDP, float64(now-idle)/1024/float64(s.udpFlows))
			return nil
		},
	}
	return []trial{tcp, udp}
}

// settledMemory waits a little and reads resident memory in bytes.
func (m *measurement) settledMemory(s scale) (int64, error) {
	if err := m.sleep(s.settle); err != nil {
		return 0, err
	}
	mem, err := memoryOf(m.r.pids)
	return mem.now, err
}

// holdAll opens n flows and keeps them until release is called. It returns an error if
// more than 1 % failed.
func (m *measurement) holdAll(ctx context.Context, network string, n int, rate float64) (release func(), err error) {
	r, release, err := m.hold(ctx, network, n, rate)
	if err == nil && r.Failed > n/100 {
		err = fmt.Errorf("%d flows opened and %d failed, of %d: %s", r.Done, r.Failed, n, r.Why)
	}
	return release, err
}

// hold opens up to n flows, until 1 % failed, and keeps them until release is called.
func (m *measurement) hold(ctx context.Context, network string, n int, rate float64) (r load.Result, release func(), err error) {
	addresses := everyHost(target.EchoPort)
	if network == "udp" {
		addresses = []string{at(target.EchoPort)} // the only one that answers over UDP
	}
	servers := family(m.servers.cmd.Process.Pid)
	before := openFiles(servers)
	r, end, err := m.loadAndKeep(ctx, m.client, load.Hold{
		Network: network, Addresses: addresses, Count: n, Rate: rate, Each: 10 * time.Second,
	})
	return r, func() {
		end()
		// The router has to close the flows towards the servers before it is stopped.
		// Otherwise the servers keep them and run out of open files.
		m.poll("the servers to close the flows", patience, func() error {
			if open := openFiles(servers); open > before+100 {
				return fmt.Errorf("%d files are open", open)
			}
			return nil
		})
	}, err
}
