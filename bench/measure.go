package main

import (
	"context"
	"fmt"
	"time"
)

// measureAll runs every trial on every subject in every round, and adds the values to out. A
// failure affects one subject in one trial only. The report is incomplete if ctx ends early.
func measureAll(ctx context.Context, w *world, o options, list []trial, out *report, logf func(string, ...any)) {
	for round := range out.rounds {
		starts := map[string][]float64{}
		for i, t := range list {
			if round >= o.roundsOf(t) {
				continue
			}
			for j := range o.subjects {
				// Each round starts with another subject.
				s := o.subjects[(j+round)%len(o.subjects)]
				if s.start == nil && t.noPlain {
					continue
				}
				if ctx.Err() != nil {
					return
				}
				logf("round %d of %d, %d of %d: %s: %s", round+1, o.roundsOf(t), i+1, len(list), t.rows[0].name, s.name)
				took, err := measureOne(ctx, w, s, t, out, round)
				if err != nil && ctx.Err() == nil {
					logf("failed: %v", err)
				}
				if took > 0 && !t.withAWS {
					starts[s.name] = append(starts[s.name], took.Seconds())
				}
			}
		}
		for name, list := range starts {
			if w.wire != nil {
				break // its starts are those of group start
			}
			out.add(startRow, name, round, median(list), nil)
		}
	}
}

// measureOne runs one trial and returns the time from exec to the first byte, or zero
// if the subject did not start.
func measureOne(parent context.Context, w *world, s subject, t trial, out *report, round int) (started time.Duration, err error) {
	// No trial that makes progress takes as long.
	const timeout = 3 * time.Minute
	ctx, cancel := context.WithTimeoutCause(parent, timeout, fmt.Errorf("it took longer than %v", timeout))
	defer cancel()
	noted := map[string]bool{}
	m := &measurement{world: w, round: round, record: func(row string, value float64, err error) {
		noted[row] = true
		out.add(row, s.name, round, value, err)
	}}
	defer func() {
		if err == nil || parent.Err() != nil { // an interrupt is not a failure of the subject
			return
		}
		for _, row := range t.rows {
			if row.name != startRow && !noted[row.name] {
				m.fail(row.name, err)
			}
		}
	}()
	m.r, err = w.start(ctx, s, t)
	if err != nil {
		err = fmt.Errorf("starting: %w", err)
		if !t.withAWS && parent.Err() == nil {
			m.fail(startRow, err)
		}
		return 0, err
	}
	defer func() {
		if stopped := w.stop(m.r); err == nil {
			err = stopped
		}
	}()
	if err := t.run(ctx, m); err != nil {
		if m.r.proc != nil {
			if ended := m.r.proc.alive(); ended != nil {
				err = fmt.Errorf("%w; the router: %w", err, ended)
			}
		}
		return m.r.firstByte, err
	}
	return m.r.firstByte, nil
}
