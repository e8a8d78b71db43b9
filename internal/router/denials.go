package router

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"subnetrouter/internal/access"
	"subnetrouter/internal/tailnet"

	"github.com/prometheus/client_golang/prometheus"
)

// Bounds of the log of denials: those that wait, those that are remembered, and for how long the same one is not
// logged again.
const (
	denialQueue    = 1024
	maxDenials     = 4096
	denialInterval = 10 * time.Minute
)

// denialLog logs each denial once in a while. The data path never waits for it.
type denialLog struct {
	queue    chan any // of denial, or string for a malformed rule
	report   bool     // denied flows are let through
	log      *slog.Logger
	whoIs    func(netip.Addr) tailnet.Peer
	explain  func(netip.Addr, access.Flow) access.Explanation
	dropped  prometheus.Counter
	recently map[any]time.Time // only run uses it
}

// denial is a flow that no rule allows.
type denial struct {
	client netip.Addr
	flow   access.Flow
}

func newDenialLog(log *slog.Logger, report bool, whoIs func(netip.Addr) tailnet.Peer, explain func(netip.Addr, access.Flow) access.Explanation) *denialLog {
	return &denialLog{
		queue: make(chan any, denialQueue), report: report, log: log, whoIs: whoIs, explain: explain, recently: map[any]time.Time{},
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "router_access_denials_unlogged_total", Help: "Denials of ROUTER_ACCESS missing in the log, because its output was too slow.",
		}),
	}
}

// add queues a denial. It does not block.
func (l *denialLog) add(d denial) {
	select {
	case l.queue <- d:
	default:
		l.dropped.Inc()
	}
}

// malformed queues the errors of rules. It does not block.
func (l *denialLog) malformed(problems []string) {
	for _, p := range problems {
		select {
		case l.queue <- p:
		default:
			return // they are read again with the next change of the rules
		}
	}
}

// run writes the queued lines until ctx ends.
func (l *denialLog) run(ctx context.Context) {
	for {
		select {
		case item := <-l.queue:
			if l.isNew(item, time.Now()) {
				l.write(item)
			}
		case <-ctx.Done():
			return
		}
	}
}

// isNew reports whether an item has not been logged for denialInterval, and remembers it.
func (l *denialLog) isNew(item any, now time.Time) bool {
	if last, known := l.recently[item]; known && now.Sub(last) < denialInterval {
		return false
	}
	if len(l.recently) >= maxDenials {
		clear(l.recently)
	}
	l.recently[item] = now
	return true
}

func (l *denialLog) write(item any) {
	d, ok := item.(denial)
	if !ok {
		l.log.Warn("a rule of a grant is ignored", "capability", tailnet.AWSCapability, "err", item, "fix", "correct the rule in the tailnet policy: see docs/operations.md")
		return
	}
	who := l.whoIs(d.client)
	e := l.explain(d.client, d.flow)
	const maxReasons = 5
	log := l.log.With("client", d.client.String(), "node", who.Node, "user", who.User, "tags", who.Tags,
		"protocol", d.flow.Protocol.String(), "target", d.flow.Target.String(), "interface", e.Target, "reasons", e.Reasons[:min(len(e.Reasons), maxReasons)])
	if l.report {
		log.Info("access would be denied")
	} else {
		log.Info("access denied")
	}
}
