package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"subnetrouter/bench/load"
	"subnetrouter/bench/target"
)

func bulkTrials(s scale) (list []trial) {
	for _, streams := range s.streams {
		for _, down := range []bool{false, true} {
			list = append(list, bulkTrial(s, streams, down))
		}
	}
	return list
}

func bulkTrial(s scale, streams int, down bool) trial {
	direction, port := "up", target.SinkPort
	if down {
		direction, port = "down", target.SourcePort
	}
	prefix := fmt.Sprintf("TCP %s, %d streams: ", direction, streams)
	if streams == 1 {
		prefix = fmt.Sprintf("TCP %s, 1 stream: ", direction)
	}
	speed, cpu, peak, after := row{name: prefix + "throughput", unit: "Mbit/s"}, row{name: prefix + "CPU", unit: "s/GiB", maxRatio: 0.85},
		row{name: prefix + "peak RSS", unit: "MiB"}, row{name: prefix + "RSS 2 s after", unit: "MiB"}
	rows := []row{speed, cpu, peak}
	if streams > 1 {
		rows[2].maxRatio = 0.15
		rows = append(rows, after)
	}
	return trial{
		group: "bulk", rows: rows,
		run: func(ctx context.Context, m *measurement) error {
			if err := resetPeak(m.r.pids); err != nil {
				return err
			}
			r, used, err := m.loadCPU(ctx, load.Stream{Address: at(port), Streams: streams, Down: down, For: s.bulk})
			if err != nil {
				return err
			}
			if r.Failed > 0 {
				return fmt.Errorf("%d of %d streams broke: %s", r.Failed, streams, r.Why)
			}
			if r.Bytes == 0 {
				return errors.New("the router forwarded no byte")
			}
			m.set(speed.name, r.PerSecond(float64(r.Bytes)*8/1e6))
			m.setCPU(cpu.name, used, time.Second, float64(r.Bytes)/gib)
			mem, err := memoryOf(m.r.pids)
			if err != nil {
				return err
			}
			m.setMemory(peak.name, mem.peak)
			if streams == 1 || m.plain() {
				return nil
			}
			if err := m.sleep(2 * time.Second); err != nil {
				return err
			}
			if mem, err = memoryOf(m.r.pids); err != nil {
				return err
			}
			m.setMemory(after.name, mem.now)
			return nil
		},
	}
}
