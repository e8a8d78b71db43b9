package router

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"subnetrouter/internal/access"
	"subnetrouter/internal/ops"
	"subnetrouter/internal/tailnet"

	"github.com/prometheus/client_golang/prometheus"
)

// Bounds of the log of denials: those that wait, those that are remembered, for how long the same one is not
// logged again, and how many of one client are logged in that time.
const (
	denialQueue      = 1024
	maxDenials       = 4096
	denialInterval   = 10 * time.Minute
	maxClientDenials = 60
)

// denialLog logs each denial once in a while, and a few of each client, so that no flood of a client takes the
// place of other lines. The data path never waits for its output.
type denialLog struct {
	queue   chan any // of denial, or string for a malformed rule
	report  bool     // denied flows are let through
	log     *slog.Logger
	whoIs   func(netip.Addr) tailnet.Peer
	explain func(netip.Addr, access.Flow) access.Explanation
	dropped prometheus.Counter

	mu       sync.Mutex // covers the fields below
	recently map[any]time.Time
	clients  map[netip.Addr]clientDenials
	last     []ops.Denial // that were logged, the newest last; maxListedDenials at most
}

// clientDenials counts the denials of a client that are logged in one denialInterval.
type clientDenials struct {
	since  time.Time
	logged int
}

// denial is a flow that no rule allows.
type denial struct {
	client netip.Addr
	flow   access.Flow
}

func newDenialLog(log *slog.Logger, report bool, whoIs func(netip.Addr) tailnet.Peer, explain func(netip.Addr, access.Flow) access.Explanation) *denialLog {
	return &denialLog{
		queue: make(chan any, denialQueue), report: report, log: log, whoIs: whoIs, explain: explain,
		recently: map[any]time.Time{}, clients: map[netip.Addr]clientDenials{},
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "router_access_denials_unlogged_total", Help: "Denials of ROUTER_ACCESS missing in the log, because the client had too many or the output was too slow.",
		}),
	}
}

// add queues a denial, and reports whether it is one to log. It does not block.
func (l *denialLog) add(d denial) bool {
	now := time.Now()
	l.mu.Lock()
	isNew := l.isNew(d, now)
	allowed := isNew && l.allows(d.client, now)
	if allowed {
		l.remember(d, now)
	}
	l.mu.Unlock()
	if !allowed {
		if isNew {
			l.dropped.Inc()
		}
		return false
	}
	select {
	case l.queue <- d:
	default:
		l.dropped.Inc()
	}
	return true
}

// malformed queues the errors of rules. It does not block.
func (l *denialLog) malformed(problems []string) {
	now := time.Now()
	for _, p := range problems {
		l.mu.Lock()
		isNew := l.isNew(p, now)
		if isNew {
			l.remember(p, now)
		}
		l.mu.Unlock()
		if !isNew {
			continue
		}
		select {
		case l.queue <- p:
		default:
			return // they are counted
		}
	}
}

// run writes the queued lines until ctx ends.
func (l *denialLog) run(ctx context.Context) {
	for {
		select {
		case item := <-l.queue:
			l.write(item)
		case <-ctx.Done():
			return
		}
	}
}

// isNew reports whether an item has not been logged for denialInterval. The caller holds l.mu.
func (l *denialLog) isNew(item any, now time.Time) bool {
	last, known := l.recently[item]
	return !known || now.Sub(last) >= denialInterval
}

// remember notes that an item is logged. The caller holds l.mu.
func (l *denialLog) remember(item any, now time.Time) {
	if len(l.recently) >= maxDenials {
		clear(l.recently)
	}
	l.recently[item] = now
}

// allows counts a denial of a client, and reports whether it is within the client's number. The caller holds l.mu.
func (l *denialLog) allows(client netip.Addr, now time.Time) bool {
	c, known := l.clients[client]
	if !known || now.Sub(c.since) >= denialInterval {
		if !known && len(l.clients) >= maxDenials {
			clear(l.clients)
		}
		c = clientDenials{since: now}
	}
	if c.logged == maxClientDenials {
		return false
	}
	c.logged++
	l.clients[client] = c
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
	l.keep(ops.Denial{
		Time: time.Now(), Protocol: d.flow.Protocol.String(), Client: d.client.String(), Node: who.Node, Target: d.flow.Target.String(), Interface: e.Target,
	})
	const maxReasons = 5
	log := l.log.With("client", d.client.String(), "node", who.Node, "user", who.User, "tags", who.Tags,
		"protocol", d.flow.Protocol.String(), "target", d.flow.Target.String(), "interface", e.Target, "reasons", e.Reasons[:min(len(e.Reasons), maxReasons)])
	if l.report {
		log.Info("access would be denied")
	} else {
		log.Info("access denied")
	}
}

// keep adds a denial to those of /status.
func (l *denialLog) keep(d ops.Denial) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.last) == maxListedDenials {
		l.last = slices.Delete(l.last, 0, 1)
	}
	l.last = append(l.last, d)
}

// latest returns the last denials that were logged, the newest first.
func (l *denialLog) latest() []ops.Denial {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := slices.Clone(l.last)
	slices.Reverse(list)
	return list
}
