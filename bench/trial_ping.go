package main

import (
	"context"
	"fmt"
	"time"

	"subnetrouter/bench/load"
)

func pingTrials(s scale) []trial {
	p50 := "ping: p50"
	prefix := fmt.Sprintf("%d pings at once: ", s.echoesAtOnce)
	lost, p99 := prefix+"lost", prefix+"p99"
	return []trial{{
		group: "ping",
		rows:  []row{{name: p50, unit: "ms"}, {name: lost, unit: ""}, {name: p99, unit: "ms"}},
		run: func(ctx context.Context, m *measurement) error {
			const each = 3 * time.Second
			r, err := m.load(ctx, load.Ping{Address: vpcHost.String(), Count: s.pings, Every: 50 * time.Millisecond, Each: each})
			if err == nil {
				err = noneDone(r)
			}
			if err != nil {
				return err
			}
			m.set(p50, ms(r.P50))
			r, err = m.load(ctx, load.Ping{Address: vpcHost.String(), Count: s.echoesAtOnce, Each: each})
			if err != nil {
				return err
			}
			m.set(lost, float64(r.Failed))
			if err := noneDone(r); err != nil {
				return err
			}
			m.set(p99, ms(r.P99))
			return nil
		},
	}}
}
