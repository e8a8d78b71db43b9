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

// datagramTrials send at a rate that every subject can forward, to measure loss and CPU,
// and at a rate beyond it, to measure throughput under overload. That one is bounded, as
// sender and router share a machine.
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
	prefix := fmt.Sprintf("UDP %s, %s B, %s/s offered: ", direction, count(ask.Size), count(int(ask.Rate)))
	delivered, loss, cpu := prefix+"delivered", prefix+"lost", prefix+"CPU"
	return trial{
		group: "udp",
		rows:  []row{{name: delivered, unit: "1/s"}, {name: loss, unit: "%"}, {name: cpu, unit: "s/GiB", maxRatio: 0.6}},
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
			if err := m.sleep(300 * time.Millisecond); err != nil { // for datagrams in flight
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
				return errors.New("the router forwarded no datagram")
			}
			m.set(delivered, float64(got)/ask.For.Seconds())
			m.set(loss, 100*(1-float64(got)/float64(sent)))
			m.setCPU(cpu, used, time.Second, float64(got)*float64(ask.Size)/gib)
			return nil
		},
	}
}
