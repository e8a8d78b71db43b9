package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// sizingGroup is the group that measures how much tasks of several sizes can do. Its rows are
// those of other groups, its subjects are the sizes, and its table has a line for each of them.
const sizingGroup = "sizing"

// sizes are sizes of Fargate's tasks, each with the smallest memory for its CPUs.
var sizes = []limits{{0.25, 512}, {0.5, 1024}, {1, 2048}, {2, 4096}}

// sizingSubjects returns the router in each mode and size, named by CPU units as on ECS.
func sizingSubjects() (list []subject) {
	for _, mode := range []string{"userspace", "kernel"} {
		for _, size := range sizes {
			list = append(list, subject{
				name: fmt.Sprintf("%s-%d", mode, int(size.cpus*1024)), kernel: mode == "kernel",
				start: ours(mode, "router"), limits: size,
			})
		}
	}
	return list
}

// sizingStreams is the number of streams without a wire.
const sizingStreams = 8

// sizingPath is the path of the trial over a wire.
var sizingPath = lossPath(60*time.Millisecond, 0.001)

func sizingTrials(s scale) (list []trial) {
	for _, t := range []trial{bulkTrial(s, sizingStreams, true), bulkTrial(s, sizingStreams, false), connectionTrials(s)[0], dnsTrials(s)[0]} {
		list = append(list, withShare(t))
	}
	list = append(list, fitTrial(s))
	for _, t := range wanTrials(s) {
		if t.rows[0].name == speedRow("down", sizingPath.name).name {
			list = append(list, t)
		}
	}
	for i := range list {
		list[i].group = sizingGroup
	}
	return list
}

// shareOf ends the names of rows with the share of its CPUs that a router used.
const shareOf = ": share of the CPUs"

// withShare adds such a row to a trial with one load.
func withShare(t trial) trial {
	share := row{name: t.rows[0].name + shareOf, unit: "%"}
	t.rows = append(slices.Clip(t.rows), share)
	run := t.run
	t.run = func(ctx context.Context, m *measurement) error {
		err := run(ctx, m)
		if m.busy > 0 {
			m.set(share.name, 100*m.busy/m.r.limited.cpus)
		}
		return err
	}
	return t
}

// fitRow has the number of flows that fit, and triedRow the number that the client tried.
const fitRow, triedRow = "idle TCP flows that fit", "idle TCP flows that fit: tried"

// fitTrial opens idle flows until the router refuses more, at the latest when the client has
// no files left.
func fitTrial(s scale) trial {
	const rss, least = "idle TCP flows that fit: RSS", 100
	return trial{
		rows: []row{{name: fitRow}, {name: triedRow}, {name: rss, unit: "MiB"}},
		run: func(ctx context.Context, m *measurement) error {
			const otherFiles = 1000 // of the router, the client and the servers
			n := min(s.fitFlows, int(m.files)-otherFiles)
			if n < least {
				return fmt.Errorf("a limit of %d open files is too low to measure flows: raise it, and -files", m.files)
			}
			r, release, err := m.hold(ctx, "tcp", n, s.fitRate)
			defer release()
			if err != nil {
				return err
			}
			if err := noneDone(r); err != nil {
				return err
			}
			if err := m.r.proc.alive(); err != nil { // out of memory
				return fmt.Errorf("after %d flows: %w", r.Done, err)
			}
			m.set(fitRow, float64(r.Done))
			m.set(triedRow, float64(n))
			rssNow, err := m.settledMemory(s)
			if err != nil {
				return err
			}
			m.setMemory(rss, rssNow)
			return nil
		},
	}
}
