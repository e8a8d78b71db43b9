package main

import "context"

const startRow = "start to first byte, key and routes given"

// startTrials do nothing but start: every start of a round counts into one row,
// as its median.
func startTrials(s scale) (list []trial) {
	given := trial{group: "start", noPlain: true, rows: []row{{name: startRow, unit: "s", most: 0.8}},
		run: func(context.Context, *measurement) error { return nil }}
	for range s.extraStarts {
		list = append(list, given)
	}
	const lookedUp = "start to first byte, with all AWS look-ups (stock: key and routes given)"
	return append(list, trial{
		group: "start", noPlain: true, withAWS: true,
		rows: []row{{name: lookedUp, unit: "s", most: 1.2}},
		run: func(_ context.Context, m *measurement) error {
			m.set(lookedUp, m.r.firstByte.Seconds())
			return nil
		},
	})
}
