package main

import "context"

const startRow = "start to first byte, key and routes given"

// startTrials only start the subject. The row's value is the median of all starts of a
// round, including those of other trials.
func startTrials(s scale) (list []trial) {
	given := trial{group: "start", noPlain: true, rows: []row{{name: startRow, unit: "s", maxRatio: 0.8}},
		run: func(context.Context, *measurement) error { return nil }}
	for range s.extraStarts {
		list = append(list, given)
	}
	const lookedUp = "start to first byte, with all AWS look-ups (stock: key and routes given)"
	return append(list, trial{
		group: "start", noPlain: true, withAWS: true,
		rows: []row{{name: lookedUp, unit: "s", maxRatio: 1.2}},
		run: func(_ context.Context, m *measurement) error {
			m.set(lookedUp, m.r.firstByte.Seconds())
			return nil
		},
	})
}
