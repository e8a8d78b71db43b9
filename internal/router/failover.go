package router

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"time"

	"subnetrouter/internal/handover"
	"subnetrouter/internal/probe"
)

func (r *Router) newProber() *probe.Prober {
	return probe.New(probe.Config{
		Targets:    r.cfg.Probes,
		Connect:    r.connect,
		Changed:    func() { notify(r.probeChanged) },
		Registerer: r.registry,
		Logger:     r.log,
	})
}

// connect opens and closes a connection to target as a flow would, at the first of its
// addresses that answers.
func (r *Router) connect(ctx context.Context, target string) error {
	host, port, err := net.SplitHostPort(target)
	if err != nil {
		return err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return err
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return err
	}
	var errs []error
	for _, a := range addrs {
		if err = r.forward.Dial(ctx, netip.AddrPortFrom(a.Unmap(), uint16(n))); err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

const (
	// failoverEvery is the interval at which a router whose probes fail asks peer routers.
	failoverEvery = 5 * time.Second
	// takeoverWait is how long control may take to give routes that are held back to
	// another router. If it does not, that router's claim was wrong: the routes are
	// advertised again, and not held back for takeoverPause.
	takeoverWait  = 15 * time.Second
	takeoverPause = 10 * time.Minute
)

// probe runs the probes, and holds the routes back while they fail here and pass at a peer
// router.
func (r *Router) probe(ctx context.Context) error {
	if len(r.cfg.Probes) == 0 {
		return nil
	}
	go r.prober.Run(ctx)
	tick := time.NewTicker(failoverEvery)
	defer tick.Stop()
	var takeoverUntil, pauseUntil time.Time
	var taken func() bool
	var offered []netip.Prefix // the routes before the hold-back
	took := false              // a peer router has the routes that are held back
	release := func() {
		r.holdBack(false)
		if !took {
			pauseUntil = time.Now().Add(takeoverPause)
		}
	}
	for {
		select {
		case <-tick.C:
		case <-r.probeChanged:
		case <-ctx.Done():
			return nil
		}
		if r.draining.Load() {
			continue
		}
		failing := r.prober.Failing()
		held := r.heldBack.Load()
		took = held && (took || taken())
		switch {
		case len(failing) == 0 && held:
			release()
			r.log.Info("probes pass; advertising routes again")
		case len(failing) == 0:
		case !held:
			routes := r.servableRoutes()
			if len(routes) == 0 || time.Now().Before(pauseUntil) || !r.peerServes(ctx, routes) {
				continue
			}
			taken = r.peers.Takeover(routes)
			takeoverUntil = time.Now().Add(takeoverWait)
			offered = routes
			r.holdBack(true)
			r.log.Warn("probes fail here but pass at a peer router; holding routes back", "failing", probe.String(failing))
		case !took && time.Now().After(takeoverUntil):
			release()
			r.log.Warn("no other router received the routes; advertising them again", "failing", probe.String(failing),
				"fix", "approve the same routes for each router of the service, or set autoApprovers for its tag")
		case !r.peerServes(ctx, offered):
			release()
			r.log.Warn("probes fail, but no peer router is healthy; advertising routes again", "failing", probe.String(failing))
		}
	}
}

func (r *Router) holdBack(hold bool) {
	r.heldBack.Store(hold)
	r.node.HoldBack(hold)
}

// peerServes reports whether a peer router may serve routes and its probes pass.
func (r *Router) peerServes(ctx context.Context, routes []netip.Prefix) bool {
	return r.peers.AskPeers(ctx, func(s handover.State) bool { return s.Healthy && s.Serves(routes) })
}

// notify wakes the receiver of c, now or when it next waits. c has a buffer of one.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
