package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"subnetrouter/internal/backoff"
	"subnetrouter/internal/forward"
	"subnetrouter/internal/handover"

	"github.com/prometheus/client_golang/prometheus"
)

// A drain moves the routes to a peer router within the drain timeout, if possible without
// clients noticing:
//
//	not ready ─▶ any helpers? ─┬─ yes ─▶ introduce clients, withdraw ─▶ relay packets until the flows end ─┬─▶ cut the rest ─▶ log out
//	                           └─ no ──▶ wait for idle flows ─▶ cut, withdraw ─────────────────────────────┘
//
// A router without routes has no helpers and nothing to withdraw: its roles and served ports are its own.
//
// Connections into the tailnet are this router's own, and cannot be handed over. Their listeners close first, and the
// router stays in the tailnet until they have ended, or the time is over.
//
// docs/decisions/0007-hand-over.md has the reasons.

const (
	// One part in logoutShare of the drain timeout is reserved for logging out, but no more
	// than maxLogout.
	logoutShare = 4
	maxLogout   = 5 * time.Second
	// propagation is how long clients may take to receive a netmap that this router has.
	propagation = 500 * time.Millisecond
	// flushDelay lets the engine send the last message to peer routers before it is closed.
	flushDelay = 50 * time.Millisecond
)

// drainMetrics counts the flows that the drain cut, and its duration. The process exits soon
// after, so that a scrape may miss it; the log has the same figures.
type drainMetrics struct {
	cut   *prometheus.CounterVec
	took  prometheus.Gauge
	total int // flows cut, of all protocols; used by the drain's goroutine only
}

func newDrainMetrics(reg prometheus.Registerer) *drainMetrics {
	m := &drainMetrics{
		cut: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "router_drain_flows_cut_total", Help: "Open flows that the drain cut.",
		}, []string{"protocol"}),
		took: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "router_drain_duration_seconds", Help: "Duration of the drain; 0 before its end.",
		}),
	}
	m.cut.WithLabelValues("tcp")
	m.cut.WithLabelValues("udp")
	reg.MustRegister(m.cut, m.took)
	return m
}

// add counts cut flows.
func (m *drainMetrics) add(flows forward.Counts) {
	m.total += flows.Total()
	for p, n := range flows {
		if n > 0 {
			m.cut.WithLabelValues(forward.Protocol(p).String()).Add(float64(n))
		}
	}
}

// drain hands the flows over or ends them, and logs the node out, within the drain timeout.
func (r *Router) drain() error {
	r.draining.Store(true)
	start := time.Now()
	drainCtx, cancel := context.WithTimeoutCause(context.Background(), r.cfg.DrainTimeout,
		fmt.Errorf("drain timeout of %v exceeded", r.cfg.DrainTimeout))
	defer cancel()
	handOverCtx, done := context.WithTimeoutCause(drainCtx, r.cfg.DrainTimeout-min(maxLogout, r.cfg.DrainTimeout/logoutShare),
		errors.New("the rest of the drain timeout is reserved for logging out"))
	defer done()

	r.drainEgress()
	r.drainHTTP(drainCtx)
	departure := r.departure(drainCtx)
	// A peer router may have joined since the last update.
	r.setTagged(r.node.Tagged())
	helpers := r.peers.BeginDrain(handOverCtx)
	flows := r.forward.Active()
	r.log.Info("draining", "helpers", helpers, "flows_tcp", flows[forward.TCP], "flows_udp", flows[forward.UDP], "timeout", r.cfg.DrainTimeout.String())
	announcing, stopAnnouncing := context.WithCancel(drainCtx)
	announced := make(chan struct{})
	go func() {
		defer close(announced)
		r.peers.Announce(announcing)
	}()
	withdrawn := false
	switch {
	case helpers > 0:
		withdrawn = r.handOver(handOverCtx)
	case r.cfg.Routes.None():
		idle, waited := r.cutWhenIdle(handOverCtx)
		r.log.Info("no routes to hand over; flows cut", "quiet", idle, "waited", waited.String())
	default:
		withdrawn = r.cutAndWithdraw(handOverCtx)
	}
	r.endEgress(handOverCtx)
	r.cutFlows()
	stopAnnouncing() // after the last relayed packet
	<-announced
	<-time.After(flushDelay)
	r.Close()
	err := r.leave(drainCtx, departure, withdrawn)
	took := time.Since(start)
	r.drainMetrics.took.Set(took.Seconds())
	r.log.Info("drained", "flows_cut", r.drainMetrics.total, "took", took.Round(time.Millisecond).String())
	return err
}

// successionWait is how long control may take to give the withdrawn routes to another
// router, counted from when it took them from this one.
const successionWait = 5 * time.Second

// handOver introduces the clients to the helpers, withdraws the routes, and continues the
// flows by way of the peer routers that control gives the routes to, until the flows end. It
// gives up if control gives them to no router: the helpers are not approved for them. It reports
// whether the routes were withdrawn.
func (r *Router) handOver(ctx context.Context) (withdrawn bool) {
	r.peers.Introduce(ctx, r.clients())
	withdrawn = r.withdraw(ctx)
	if orphaned, waited := r.traffic().awaitEnd(ctx, r.peers.Succeeded, r.cfg.DrainTimeout/2); orphaned {
		r.log.Warn("no other router received the routes; cutting flows", "waited", waited.Round(time.Millisecond).String(),
			"fix", "approve the same routes for each router of the service, or set autoApprovers for its tag")
	}
	return withdrawn
}

// traffic is the traffic that a drain waits for.
type traffic struct {
	flows    func() int                     // open flows of TCP; UDP flows have no end to wait for
	busy     func() int                     // [forward.Forwarder.Busy]
	idle     func(ctx context.Context) bool // waits until no flow is busy
	requests func() int                     // open requests to ports with HTTP, whose flows may look idle while a program thinks
}

func (r *Router) traffic() traffic {
	return traffic{
		flows: func() int { return r.forward.Active()[forward.TCP] }, busy: r.forward.Busy, idle: r.forward.AwaitIdle,
		requests: r.awaitedRequests,
	}
}

// quiet reports whether a cut would lose no answer. It asks for busy flows first: a request makes its flow busy before it is counted,
// and its answer keeps the flow busy after that.
func (t traffic) quiet() bool { return t.busy() == 0 && t.requests() == 0 }

// awaitQuiet waits for a moment without an open request and without traffic. It returns false if ctx ends first.
func (t traffic) awaitQuiet(ctx context.Context) bool {
	for t.idle(ctx) {
		if t.quiet() {
			return true
		}
		if !backoff.Sleep(ctx, 5*time.Millisecond) {
			return false
		}
	}
	return false
}

// awaitEnd waits until all flows have ended, or ctx has. If no other router has received the routes after successionWait, it waits
// for a quiet moment only, for limit at most, and returns true.
func (t traffic) awaitEnd(ctx context.Context, succeeded func() bool, limit time.Duration) (orphaned bool, waited time.Duration) {
	start := time.Now()
	done := false
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		waited = time.Since(start)
		if waited > propagation && t.flows() == 0 && t.busy() == 0 {
			return false, waited
		}
		done = done || succeeded()
		if !done && waited > successionWait && (waited > limit || t.quiet()) {
			return true, waited
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false, waited
		}
	}
}

// clients returns the client and the address behind the router of each open flow, and the clients of
// the resolver. The flows that moved the most bytes come first, since introductions are bounded.
func (r *Router) clients() []handover.Client {
	flows := r.forward.Flows(math.MaxInt)
	list := make([]handover.Client, len(flows))
	for i, f := range flows {
		list[i] = handover.Client{Addr: f.Client.Addr(), Target: f.Address.Addr()}
	}
	return append(list, r.dnsClients()...)
}

// cutAndWithdraw cuts the flows before it withdraws the routes, for a drain without
// helpers: once clients send to another router, a reset from this one no longer reaches
// them. Flows that clients open until they have moved are served, and cut at the end. It reports
// whether the routes were withdrawn.
func (r *Router) cutAndWithdraw(ctx context.Context) (withdrawn bool) {
	idle, waited := r.cutWhenIdle(ctx)
	r.log.Info("no peer router to hand over to; cutting flows, then withdrawing routes", "quiet", idle, "waited", waited.String())
	withdrawn = r.withdraw(ctx)
	r.cutFlows()
	backoff.Sleep(ctx, propagation)
	return withdrawn
}

// cutWhenIdle waits for a moment without open HTTP requests and traffic, for up to half of the drain timeout, and cuts the flows. It reports whether there was such a moment, and how long it waited.
func (r *Router) cutWhenIdle(ctx context.Context) (idle bool, waited time.Duration) {
	waiting, cancel := context.WithTimeout(ctx, r.cfg.DrainTimeout/2)
	defer cancel()
	start := time.Now()
	idle = r.traffic().awaitQuiet(waiting)
	waited = time.Since(start).Round(time.Millisecond)
	r.cutFlows()
	return idle, waited
}

// withdraw reports whether control has taken all routes from this node.
func (r *Router) withdraw(ctx context.Context) bool {
	start := time.Now()
	if err := r.node.Withdraw(ctx); err != nil {
		r.log.Warn("withdrawing routes failed", "err", err)
		return false
	}
	r.log.Info("routes handed over", "took", time.Since(start).Round(time.Millisecond).String())
	return true
}

// maxLoggedFlows bounds the cut flows that the log names.
const maxLoggedFlows = 20

// cutFlows cuts the open flows. New ones are still accepted.
func (r *Router) cutFlows() {
	names := r.flowNames()
	flows := r.forward.Cut()
	if flows.Total() == 0 {
		return
	}
	r.drainMetrics.add(flows)
	level := slog.LevelInfo // UDP flows, which may be unused
	if flows[forward.TCP] > 0 {
		level = slog.LevelWarn
	}
	r.log.Log(context.Background(), level, "flows cut", "tcp", flows[forward.TCP], "udp", flows[forward.UDP], "flows", names)
}

func (r *Router) flowNames() []string {
	names := []string{}
	for _, f := range r.forward.Flows(maxLoggedFlows) {
		who := f.Client.String()
		if node := r.node.WhoIs(f.Client.Addr()).Node; node != "" {
			who = node
		}
		names = append(names, fmt.Sprintf("%s %s to %s", f.Protocol, who, f.Target))
	}
	return names
}
