// Package probe finds out whether what is behind the router can be reached, by TCP
// connections to a few targets, with hysteresis: one answer that fails to come does not
// change the verdict, nor does one that comes.
package probe

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// What it takes for a verdict: with a round every 5 s, a target that falls silent is
// noticed after 10 to 15 s, as fast as control notices a router that does.
const (
	interval = 5 * time.Second
	timeout  = 3 * time.Second
	failures = 3 // in a row, until a target is down
	recovery = 3 // in a row, until it is up again
)

// Config says what to probe. The zero value of a field means the default that its
// comment gives.
type Config struct {
	// Targets are host:port.
	Targets []string
	// Connect opens a connection to a target and closes it.
	Connect func(ctx context.Context, target string) error
	// Changed hears of each change of [Prober.Failing]. It may block a round. Default:
	// nobody does.
	Changed    func()
	Registerer prometheus.Registerer
	Logger     *slog.Logger
}

// Prober probes. Create it with [New].
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
	run  int   // results in a row that contradict the verdict
	err  error // of the last try that failed
	seen bool  // there was a result
}

// Failure is a target that is down, and why.
type Failure struct {
	Target string
	Err    error
}

// New creates a Prober that does not run yet. Until its first round is over nothing is
// known to fail, see [Prober.Known].
func New(cfg Config) *Prober {
	p := &Prober{
		cfg: cfg,
		success: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "router_probe_success", Help: "1 if the last connection to a target of ROUTER_PROBE came about.",
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

// RoundDone reports whether each target was tried.
func (p *Prober) RoundDone() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !slices.ContainsFunc(p.targets, func(t *target) bool { return !t.seen })
}

// Failing lists the targets that are down.
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
		select {
		case <-time.After(interval - interval/10 + rand.N(interval/5)):
		case <-ctx.Done():
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
			if !p.note(t, err) {
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

// note takes a result and reports whether it changed the verdict. The very first result
// is one at once: nothing is known that it could contradict.
func (p *Prober) note(t *target, err error) (changed bool) {
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

// String lists failures for people.
func String(list []Failure) string {
	var s []string
	for _, f := range list {
		s = append(s, f.Target+" ("+f.Err.Error()+")")
	}
	return strings.Join(s, ", ")
}
