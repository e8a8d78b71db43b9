// Package probe checks whether targets behind the router are reachable, with TCP connections
// and hysteresis: after the first result, one that differs does not change a target's state.
package probe

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"subnetrouter/internal/backoff"

	"github.com/prometheus/client_golang/prometheus"
)

// With a round every 5 s, a silent target is down after 10 to 15 s, as fast as control detects
// a router that is offline.
const (
	interval = 5 * time.Second
	timeout  = 3 * time.Second
	failures = 3 // in a row, until a target is down
	recovery = 3 // in a row, until it is up again
)

// Config configures a [Prober]. The zero value of a field means the default that its comment
// gives.
type Config struct {
	// Targets are host:port.
	Targets []string
	// Connect opens a connection to a target and closes it.
	Connect func(ctx context.Context, target string) error
	// Changed is called after each change of [Prober.Failing]. The next round waits for it.
	// Default: nothing is called.
	Changed    func()
	Registerer prometheus.Registerer
	Logger     *slog.Logger
}

// Prober probes the targets in rounds. Create it with [New].
type Prober struct {
	cfg     Config
	success *prometheus.GaugeVec
	failed  *prometheus.CounterVec

	mu      sync.Mutex
	targets []*target
}

type target struct {
	name string
	down bool
	run  int   // consecutive results that contradict down
	err  error // of the last failed attempt
	seen bool  // the target was probed at least once
}

// Failure is a target that is down, with the last error.
type Failure struct {
	Target string
	Err    error
}

// New returns a Prober that does not run yet. Before its first round is done, no target fails;
// see [Prober.RoundDone].
func New(cfg Config) *Prober {
	p := &Prober{
		cfg: cfg,
		success: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "router_probe_success", Help: "1 if the last connection to a target of ROUTER_PROBE succeeded.",
		}, []string{"target"}),
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "router_probe_failures_total", Help: "Connections to a target of ROUTER_PROBE that failed.",
		}, []string{"target"}),
	}
	for _, name := range cfg.Targets {
		p.targets = append(p.targets, &target{name: name})
		p.failed.WithLabelValues(name)
	}
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(p.success, p.failed)
	}
	return p
}

// RoundDone reports whether every target was probed at least once.
func (p *Prober) RoundDone() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !slices.ContainsFunc(p.targets, func(t *target) bool { return !t.seen })
}

// Failing returns the targets that are down.
func (p *Prober) Failing() []Failure {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []Failure
	for _, t := range p.targets {
		if t.down {
			out = append(out, Failure{t.name, t.err})
		}
	}
	return out
}

// Run probes until ctx ends; with no targets it returns at once.
func (p *Prober) Run(ctx context.Context) {
	if len(p.targets) == 0 {
		return
	}
	for {
		p.round(ctx)
		if !backoff.Sleep(ctx, backoff.Jitter(interval, backoff.Interval)) {
			return
		}
	}
}

func (p *Prober) round(ctx context.Context) {
	var tries sync.WaitGroup
	changed := false
	for _, t := range p.targets {
		tries.Go(func() {
			tctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			err := p.cfg.Connect(tctx, t.name)
			if ctx.Err() != nil {
				return
			}
			if !p.record(t, err) {
				return
			}
			p.mu.Lock()
			changed = true
			p.mu.Unlock()
			if err != nil {
				p.cfg.Logger.Warn("probe failing", "target", t.name, "err", err)
			} else {
				p.cfg.Logger.Info("probe passes again", "target", t.name)
			}
		})
	}
	tries.Wait()
	if changed && ctx.Err() == nil && p.cfg.Changed != nil {
		p.cfg.Changed()
	}
}

// record records a result and reports whether the target's state changed. The first result
// decides the state at once.
func (p *Prober) record(t *target, err error) (changed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	need := failures
	if t.down {
		need = recovery
	}
	if !t.seen {
		need = 1
	}
	t.seen = true
	if err == nil {
		p.success.WithLabelValues(t.name).Set(1)
	} else {
		t.err = err
		p.success.WithLabelValues(t.name).Set(0)
		p.failed.WithLabelValues(t.name).Inc()
	}
	if (err != nil) == t.down {
		t.run = 0
		return false
	}
	if t.run++; t.run < need {
		return false
	}
	t.run, t.down = 0, err != nil
	return true
}

// String formats failures for people.
func String(list []Failure) string {
	var s []string
	for _, f := range list {
		s = append(s, f.Target+" ("+f.Err.Error()+")")
	}
	return strings.Join(s, ", ")
}
