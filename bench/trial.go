package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"subnetrouter/bench/load"
	"subnetrouter/internal/netnstest"
)

// row is a line of the table.
type row struct {
	name     string
	unit     string
	maxRatio float64 // target for the ratio ours/stock in userspace mode; 0: none
	minMax   bool    // show the smallest and largest value, since rounds differ by factors
}

// trial measures some rows of one subject, which is started for it.
type trial struct {
	group   string // name for -group
	rows    []row
	rounds  int    // 0: the scale's
	limits  limits // for this trial only; zero: those of -cgroup
	withAWS bool   // start with all look-ups, if the subject makes any
	noPlain bool   // meaningless without a router process
	proxies bool   // start with proxies into the tailnet
	wire    bool   // over a wire with delay and loss
	run     func(ctx context.Context, m *measurement) error
}

// scale holds the durations and amounts of the trials.
type scale struct {
	settle       time.Duration // before memory is read
	idle         time.Duration
	bulk         time.Duration
	connect      time.Duration
	hangup       time.Duration
	dns          time.Duration
	privateDNS   time.Duration // whole seconds
	flood        time.Duration
	idleFlows    []int // ascending
	udpFlows     int
	flowRate     float64 // new UDP flows/s
	bursts       []int
	dnsRate      float64 // new sockets/s
	udpRate      float64 // datagrams/s that every subject can forward
	udpOverload  float64 // datagrams/s that no subject with a VPN can
	pings        int
	streams      []int
	extraStarts  int
	atOnce       int // workers
	echoesAtOnce int
	rounds       int // of trials without a number of their own

	// For group sizing.
	fitFlows int     // more than any router holds by default
	fitRate  float64 // new flows/s

	// For group wan, and for the wire of sizing.
	stream                   time.Duration
	cleanRounds, lossyRounds int
}

var (
	full = scale{
		settle: 2 * time.Second, idle: time.Minute, bulk: 3 * time.Second, connect: 4 * time.Second, hangup: 6 * time.Second,
		dns: 4 * time.Second, privateDNS: 8 * time.Second, flood: 3 * time.Second,
		idleFlows: []int{1000, 10000}, udpFlows: 10000, flowRate: 2500, bursts: []int{2000, 5000},
		dnsRate: 400, udpRate: 10000, udpOverload: 50000, pings: 20, streams: []int{1, 8}, extraStarts: 2, atOnce: 50, echoesAtOnce: 50, rounds: 3,
		fitFlows: 60000, fitRate: 1000,
		stream: 20 * time.Second, cleanRounds: 5, lossyRounds: 9,
	}
	quick = scale{
		settle: time.Second, idle: 5 * time.Second, bulk: 1500 * time.Millisecond, connect: 2 * time.Second, hangup: 3 * time.Second,
		dns: 1500 * time.Millisecond, privateDNS: 2 * time.Second, flood: time.Second,
		idleFlows: []int{1000}, udpFlows: 2000, flowRate: 2500, bursts: []int{2000},
		dnsRate: 400, udpRate: 10000, udpOverload: 50000, pings: 10, streams: []int{1, 8}, extraStarts: 1, atOnce: 50, echoesAtOnce: 50, rounds: 1,
		fitFlows: 2000, fitRate: 1000,
		stream: 4 * time.Second, cleanRounds: 1, lossyRounds: 1,
	}
)

// trials returns all trials in the order of the table.
func trials(s scale) (list []trial) {
	for _, more := range [][]trial{
		startTrials(s), idleTrials(s), memoryTrials(s), bulkTrials(s), connectionTrials(s),
		burstTrials(s), dnsTrials(s), privateDNSTrials(s), datagramTrials(s), pingTrials(s), proxyTrials(s), accessTrials(s), wanTrials(s), sizingTrials(s),
	} {
		list = append(list, more...)
	}
	return list
}

// groups returns the possible values of -group.
func groups() (list []string) {
	for _, t := range trials(full) {
		if !slices.Contains(list, t.group) {
			list = append(list, t.group)
		}
	}
	return list
}

// defaultGroups returns the groups that are measured without -group.
func defaultGroups() []string {
	return slices.DeleteFunc(groups(), func(name string) bool { return name == wanGroup || name == sizingGroup || name == accessGroup })
}

// measurement is one trial of one subject in one round.
type measurement struct {
	*world
	r      *running
	round  int
	busy   float64 // processors that the router used on average during loadCPU
	record func(row string, value float64, err error)
}

func (m *measurement) plain() bool { return m.r.proc == nil }

func (m *measurement) set(row string, value float64) { m.record(row, value, nil) }

func (m *measurement) fail(row string, err error) { m.record(row, 0, err) }

// setCPU records used/n in the given unit, unless there is no router process.
func (m *measurement) setCPU(row string, used time.Duration, unit time.Duration, n float64) {
	if !m.plain() && n > 0 {
		m.set(row, float64(used)/float64(unit)/n)
	}
}

// cpu returns the CPU time that the router uses while f runs.
func (m *measurement) cpu(f func() error) (time.Duration, error) {
	before := cpuOf(m.r.pids)
	err := f()
	return cpuOf(m.r.pids) - before, err
}

// loadCPU runs a generator at the client and returns its result and the CPU time of the router.
func (m *measurement) loadCPU(ctx context.Context, g load.Generator) (load.Result, time.Duration, error) {
	return m.loadCPUAt(ctx, m.client, g)
}

// loadCPUAt is loadCPU at another host.
func (m *measurement) loadCPUAt(ctx context.Context, h *netnstest.Host, g load.Generator) (r load.Result, used time.Duration, err error) {
	used, err = m.cpu(func() error {
		r, err = m.loadAt(ctx, h, g)
		return err
	})
	if err == nil {
		m.busy = used.Seconds() / r.Elapsed.Seconds()
	}
	return r, used, err
}

func (m *measurement) setMemory(row string, bytes int64) {
	if !m.plain() {
		m.set(row, mib(bytes))
	}
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

const gib = 1 << 30

// noneDone returns an error if not a single operation succeeded.
func noneDone(r load.Result) error {
	if r.Done > 0 {
		return nil
	}
	return fmt.Errorf("all of %d failed: %s", r.Failed, r.Why)
}

func count(n int) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
