package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A drain gives the routes to another router without its clients noticing, within the
// drain timeout:
//
//	not ready ─▶ do others help? ─┬─ yes ─▶ withdraw ─▶ pass flows on until they end ─┬─▶ cut what is left ─▶ log out
//	                              └─ no ──▶ wait for a quiet moment ─▶ cut, withdraw ──┘
//
// docs/decisions/0007-hand-over.md says why so.

const (
	// leaveShare of the drain timeout is for logging out, but no more than mostLeave.
	logoutShare = 4
	maxLogout   = 5 * time.Second
	// linger is what clients may take to hear from control what this router heard.
	propagation = 500 * time.Millisecond
	// farewell lets the engine send the last message, before it ends with the data path.
	flushDelay = 50 * time.Millisecond
)

// drainMetrics tell of the last act; who wants to read them has to be quick, and the log
// has the same.
type drainMetrics struct {
	cut   *prometheus.CounterVec
	took  prometheus.Gauge
	total int // cut, of both protocols; of the drain's goroutine
}

func newDrainMetrics(reg prometheus.Registerer) *drainMetrics {
	m := &drainMetrics{
		cut: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "router_drain_flows_cut_total", Help: "Flows that were still open when the drain had to end them.",
		}, []string{"protocol"}),
		took: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "router_drain_duration_seconds", Help: "How long the drain took, or 0 before its end.",
		}),
	}
	m.cut.WithLabelValues("tcp")
	m.cut.WithLabelValues("udp")
	reg.MustRegister(m.cut, m.took)
	return m
}

// drain hands over and leaves, within the drain timeout.
func (r *Router) drain() error {
	r.draining.Store(true)
	start := time.Now()
	whole, cancel := context.WithTimeoutCause(context.Background(), r.cfg.DrainTimeout,
		fmt.Errorf("drain timeout of %v is over", r.cfg.DrainTimeout))
	defer cancel()
	handing, done := context.WithTimeoutCause(whole, r.cfg.DrainTimeout-min(maxLogout, r.cfg.DrainTimeout/logoutShare),
		errors.New("no time left but for logging out"))
	defer done()

	// A successor may have come just now.
	r.setTagged(r.node.Tagged())
	helpers := r.peers.BeginDrain(handing)
	tcp, udp := r.forward.Active()
	r.log.Info("draining", "helpers", helpers, "flows_tcp", tcp, "flows_udp", udp, "timeout", r.cfg.DrainTimeout.String())
	announcing, gone := context.WithCancel(whole)
	announced := make(chan struct{})
	go func() {
		defer close(announced)
		r.peers.Announce(announcing)
	}()
	if helpers > 0 {
		r.handOver(handing)
	} else {
		r.cutAndWithdraw(handing)
	}
	r.cutFlows()
	gone() // after the last packet that others pass on
	<-announced
	time.Sleep(flushDelay)
	r.forward.Close()
	err := r.closeNode(whole)
	took := time.Since(start)
	r.drainMetrics.took.Set(took.Seconds())
	r.log.Info("drained", "flows_cut", r.drainMetrics.total, "took", took.Round(time.Millisecond).String())
	return err
}

// successionWait is how long control may take to give the withdrawn routes to another
// router, counted from when it took them from this one.
const successionWait = 5 * time.Second

// passOn withdraws, and goes on with the flows by way of the routers that control gives
// the routes to, until the flows end. It gives up if control gives them to none: the
// routers that offered help are not approved for them.
func (r *Router) handOver(ctx context.Context) {
	r.withdraw(ctx)
	start := time.Now()
	succeeded := false
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		tcp, _ := r.forward.Active()
		// A flow of UDP has no end that could be waited for.
		if tcp == 0 && r.forward.Busy() == 0 && time.Since(start) > propagation {
			return
		}
		succeeded = succeeded || r.peers.Succeeded()
		if !succeeded && time.Since(start) > successionWait {
			r.log.Warn("control gave the routes to no other router; ending flows", "waited", successionWait.String(),
				"fix", "approve the same routes for each router of the service, or set autoApprovers for its tag")
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// cutOver is for a router that nobody helps: once clients listen to another, this one
// cannot tell them anything. So the flows end while it still can, at a moment when that
// hurts least, and those that come until clients have moved are carried as they come.
func (r *Router) cutAndWithdraw(ctx context.Context) {
	waiting, cancel := context.WithTimeout(ctx, r.cfg.DrainTimeout/2)
	defer cancel()
	start := time.Now()
	quiet := r.forward.AwaitIdle(waiting)
	r.log.Info("flows end before the routes go", "quiet", quiet, "waited", time.Since(start).Round(time.Millisecond).String())
	r.cutFlows()
	r.withdraw(ctx)
	r.cutFlows()
	select {
	case <-time.After(propagation):
	case <-ctx.Done():
	}
}

func (r *Router) withdraw(ctx context.Context) {
	start := time.Now()
	if err := r.node.Withdraw(ctx); err != nil {
		r.log.Warn("routes not handed over", "err", err)
		return
	}
	r.log.Info("routes handed over", "took", time.Since(start).Round(time.Millisecond).String())
}

// mostNamed is how many of the flows that it cuts the log names.
const maxLoggedFlows = 20

// cut ends what is open; what comes next is still taken.
func (r *Router) cutFlows() {
	names := r.flowNames()
	tcp, udp := r.forward.Cut()
	if tcp+udp == 0 {
		return
	}
	r.drainMetrics.total += tcp + udp
	r.drainMetrics.cut.WithLabelValues("tcp").Add(float64(tcp))
	r.drainMetrics.cut.WithLabelValues("udp").Add(float64(udp))
	level := slog.LevelInfo // flows of UDP that nobody may use any more
	if tcp > 0 {
		level = slog.LevelWarn
	}
	r.log.Log(context.Background(), level, "flows cut", "tcp", tcp, "udp", udp, "flows", names)
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
