package main

import (
	"context"
	"fmt"
	"time"

	"subnetrouter/bench/load"
	"subnetrouter/bench/target"
)

const dnsGroup = "dns"

func dnsTrials(s scale) []trial {
	address := at(target.DNSPort)
	const each = time.Second
	return []trial{
		dnsTrial(fmt.Sprintf("DNS, %d kept sockets: ", s.atOnce), 0.75,
			load.DNS{Address: address, Workers: s.atOnce, For: s.dns, Each: each}),
		dnsTrial(fmt.Sprintf("DNS, %d kept sockets, %v/s: ", s.atOnce, s.dnsRate), 0,
			load.DNS{Address: address, Workers: s.atOnce, Rate: s.dnsRate, For: s.dns, Each: each}),
		dnsTrial(fmt.Sprintf("DNS, a new socket each, %v/s: ", s.dnsRate), 0.4,
			load.DNS{Address: address, NewSocket: true, Rate: s.dnsRate, For: s.dns, Each: each}),
		dnsTrial(fmt.Sprintf("DNS, a new socket each, %d at a time: ", s.atOnce), 0.4,
			load.DNS{Address: address, NewSocket: true, Workers: s.atOnce, For: s.dns, Each: each}),
	}
}

func dnsTrial(prefix string, maxCPU float64, g load.DNS) trial {
	rate, p50, p99, lost := prefix+"rate", prefix+"p50", prefix+"p99", prefix+"lost"
	cpu, files, peak := prefix+"CPU per query", prefix+"most open files", prefix+"peak RSS"
	return trial{
		group: dnsGroup,
		rows: []row{{name: rate, unit: "1/s"}, {name: p50, unit: "ms"}, {name: p99, unit: "ms"}, {name: lost, unit: "%"},
			{name: cpu, unit: "µs", maxRatio: maxCPU}, {name: files, unit: ""}, {name: peak, unit: "MiB"}},
		run: func(ctx context.Context, m *measurement) error {
			if err := resetPeak(m.r.pids); err != nil {
				return err
			}
			stop := sampleOpenFiles(m.r.pids)
			r, used, err := m.loadCPU(ctx, g)
			most := stop()
			if err != nil {
				return err
			}
			m.set(lost, 100*float64(r.Failed)/float64(max(1, r.Done+r.Failed)))
			if err := noneDone(r); err != nil {
				return err
			}
			m.set(rate, r.PerSecond(float64(r.Done)))
			m.set(p50, ms(r.P50))
			m.set(p99, ms(r.P99))
			m.setCPU(cpu, used, time.Microsecond, float64(r.Done))
			if m.plain() {
				return nil
			}
			m.set(files, float64(most))
			mem, err := memoryOf(m.r.pids)
			if err != nil {
				return err
			}
			m.setMemory(peak, mem.peak)
			return nil
		},
	}
}
