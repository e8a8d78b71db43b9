package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"subnetrouter/bench/load"
	"subnetrouter/bench/target"
)

// datagramTrials send at a rate that every subject can follow, for loss and
// cost, and at one beyond that, for what is delivered then. That one is bounded,
// as sender and router share a machine.
func datagramTrials(s scale) []trial {
	const big, small = 1200, 64 // bytes
	return []trial{
		datagramTrial(s, target.Ask{Size: big, Rate: s.udpRate}, false),
		datagramTrial(s, target.Ask{Size: big, Rate: s.udpRate}, true),
		datagramTrial(s, target.Ask{Size: small, Rate: s.udpRate}, false),
		datagramTrial(s, target.Ask{Size: big, Rate: s.udpOverload}, false),
		datagramTrial(s, target.Ask{Size: small, Rate: s.udpOverload}, false),
	}
}

func datagramTrial(s scale, ask target.Ask, down bool) trial {
	ask.For = s.flood
	direction := "up"
	if down {
		direction = "down"
	}
	what := fmt.Sprintf("UDP %s, %s B, %s/s offered: ", direction, count(ask.Size), count(int(ask.Rate)))
	delivered, loss, cpu := what+"delivered", what+"lost", what+"CPU"
	return trial{
		group: "udp",
		rows:  []row{{name: delivered, unit: "1/s"}, {name: loss, unit: "%"}, {name: cpu, unit: "s/GiB", most: 0.6}},
		run: func(ctx context.Context, m *measurement) error {
			ask := ask
			ask.Flood = rand.Uint64()
			var g load.Generator = load.Flood{Address: at(target.FloodPort), Ask: ask}
			if down {
				g = load.Receive{Address: at(target.FloodPort), Ask: ask}
			}
			r, used, err := m.loadCPU(ctx, g)
			if err != nil {
				return err
			}
			if err := m.sleep(300 * time.Millisecond); err != nil { // what is still on its way
				return err
			}
			seen, err := m.tally(ctx, ask.Flood)
			if err != nil {
				return err
			}
			sent, got := r.Done, seen.Received
			if down {
				sent, got = seen.Sent, r.Done
			}
			if sent == 0 || got == 0 {
				return errors.New("no datagram came through")
			}
			m.set(delivered, float64(got)/ask.For.Seconds())
			m.set(loss, 100*(1-float64(got)/float64(sent)))
			m.setCPU(cpu, used, time.Second, float64(got)*float64(ask.Size)/gib)
			return nil
		},
	}
}
