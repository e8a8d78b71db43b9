package main

import (
	"context"
	"time"
)

// idleTrials measure the CPU time of a router that has joined and has no traffic.
func idleTrials(s scale) []trial {
	const cpu, rss = "idle: CPU", "idle: peak RSS"
	return []trial{{
		group: "idle", noPlain: true,
		rows: []row{{name: cpu, unit: "% of a CPU"}, {name: rss, unit: "MiB"}},
		run: func(_ context.Context, m *measurement) error {
			const started = 5 * time.Second // for handshakes, pings and other traffic of a start
			if err := m.sleep(started); err != nil {
				return err
			}
			used, err := m.cpu(func() error { return m.sleep(s.idle) })
			if err != nil {
				return err
			}
			m.setCPU(cpu, used, s.idle, 0.01)
			mem, err := memoryOf(m.r.pids)
			if err != nil {
				return err
			}
			m.setMemory(rss, mem.peak)
			return nil
		},
	}}
}
