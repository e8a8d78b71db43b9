package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Nodes look up names of the VPC, as the router answers them with ROUTER_DNS=on (ours-dns), or forwards
// the queries to the resolver. The rates are below the share of a node, 1,000 queries a second and 200 new
// names, except for the flood's.
const (
	repeatedRate = 900
	newRate      = 150
	victimRate   = 100
	floodRate    = 10_000
	manyNodes    = 4
)

func privateDNSTrials(s scale) []trial {
	period := max(time.Second, s.privateDNS)
	return []trial{
		repeatedTrial(1, period),
		repeatedTrial(manyNodes, period),
		newNamesTrial(period),
		dnsFloodTrial(period),
	}
}

// repeatedTrial measures the CPU time of the router for names that were asked before.
func repeatedTrial(nodes int, period time.Duration) trial {
	who := "1 node"
	if nodes > 1 {
		who = fmt.Sprintf("%d nodes", nodes)
	}
	prefix := fmt.Sprintf("private names asked again, %s, %s/s each: ", who, count(repeatedRate))
	rate, perCPU, p50, p99, lost := prefix+"rate", prefix+"queries per CPU-second", prefix+"p50", prefix+"p99", prefix+"lost"
	return trial{
		group: dnsGroup,
		rows: []row{{name: rate, unit: "1/s"}, {name: perCPU, unit: ""}, {name: p50, unit: "ms"}, {name: p99, unit: "ms"},
			{name: lost, unit: "%"}},
		run: func(ctx context.Context, m *measurement) error {
			hosts, err := m.nodes(ctx, nodes)
			if err != nil {
				return err
			}
			// Not metered: without the cache, so many queries are above AWS's limit, and this is about CPU time.
			names := make([]string, 100)
			for i := range names {
				names[i] = fmt.Sprintf("host%d.internal", i)
			}
			d := dnsperf{names: names, rate: repeatedRate, For: period}
			if _, err := m.runDNSPerf(ctx, hosts[0], dnsperf{names: names, rate: newRate, For: time.Second, distinct: true}); err != nil {
				return err
			}
			if err := m.sleep(time.Second); err != nil { // to refill the node's share
				return err
			}
			var all lookups
			began := time.Now()
			used, err := m.cpu(func() error {
				list := make([]lookups, nodes)
				errs := make([]error, nodes)
				var wg sync.WaitGroup
				for i, h := range hosts {
					wg.Go(func() { list[i], errs[i] = m.runDNSPerf(ctx, h, d) })
				}
				wg.Wait()
				for _, l := range list {
					all.took = append(all.took, l.took...)
					all.failed += l.failed
				}
				slices.Sort(all.took)
				return firstOf(errs...)
			})
			if err != nil {
				return err
			}
			if err := all.none(); err != nil {
				return err
			}
			m.set(rate, float64(len(all.took))/time.Since(began).Seconds())
			if !m.plain() {
				m.set(perCPU, float64(all.all())/used.Seconds())
			}
			m.set(p50, ms(all.at(0.5)))
			m.set(p99, ms(all.at(0.99)))
			m.set(lost, all.lost())
			return nil
		},
	}
}

// newNamesTrial measures names that were never asked.
func newNamesTrial(period time.Duration) trial {
	prefix := fmt.Sprintf("new private names, 1 node, %d/s: ", newRate)
	p50, p99, lost := prefix+"p50", prefix+"p99", prefix+"lost"
	return trial{
		group: dnsGroup,
		rows:  []row{{name: p50, unit: "ms"}, {name: p99, unit: "ms"}, {name: lost, unit: "%"}},
		run: func(ctx context.Context, m *measurement) error {
			n := int(newRate * period.Seconds())
			l, err := m.runDNSPerf(ctx, m.client, dnsperf{names: privateNames(fmt.Sprintf("n%x-", rand.Uint32()), n), rate: newRate, For: period, distinct: true})
			if err != nil {
				return err
			}
			if err := l.none(); err != nil {
				return err
			}
			m.set(p50, ms(l.at(0.5)))
			m.set(p99, ms(l.at(0.99)))
			m.set(lost, l.lost())
			return nil
		},
	}
}

// dnsFloodTrial measures a node that looks up new names and others in turn, alone and while another node
// asks for new names as fast as a faulty program does.
func dnsFloodTrial(period time.Duration) trial {
	prefix := fmt.Sprintf("private names, half of them new, %d/s: ", victimRate)
	flooded := fmt.Sprintf("%sduring a flood of %s/s by another node: ", prefix, count(floodRate))
	list := []string{prefix + "p99", prefix + "failed", flooded + "p99", flooded + "failed"}
	return trial{
		group: dnsGroup,
		rows: []row{{name: list[0], unit: "ms"}, {name: list[1], unit: "%"}, {name: list[2], unit: "ms"},
			{name: list[3], unit: "%"}},
		run: func(ctx context.Context, m *measurement) error {
			hosts, err := m.nodes(ctx, 2)
			if err != nil {
				return err
			}
			victim := func() (lookups, error) {
				names := privateNames(fmt.Sprintf("v%x-", rand.Uint32()), int(victimRate*period.Seconds()))
				for i := 0; i < len(names); i += 2 {
					names[i] = fmt.Sprintf("host%d.metered", i%20)
				}
				return m.runDNSPerf(ctx, hosts[0], dnsperf{names: names, rate: victimRate, For: period, distinct: true})
			}
			alone, err := victim()
			if err != nil {
				return err
			}
			if err := alone.none(); err != nil {
				return err
			}
			m.set(list[0], ms(alone.at(0.99)))
			m.set(list[1], alone.lost())
			flood := make(chan error, 1)
			go func() {
				_, err := m.runDNSPerf(ctx, hosts[1], dnsperf{
					names: privateNames(fmt.Sprintf("f%x-", rand.Uint32()), int(floodRate*(period+2*time.Second).Seconds())), rate: floodRate, For: period + 2*time.Second, distinct: true,
				})
				flood <- err
			}()
			if err := m.sleep(time.Second); err != nil {
				return err
			}
			during, err := victim()
			if err := firstOf(err, <-flood); err != nil {
				return err
			}
			m.set(list[3], during.lost())
			if err := during.none(); err != nil {
				return err
			}
			m.set(list[2], ms(during.at(0.99)))
			return nil
		},
	}
}
