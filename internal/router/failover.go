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

// connect reaches a target as flows do, at the first of its addresses that answers.
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
	// guardEvery is how often a router whose probes fail looks for others.
	failoverEvery = 5 * time.Second
	// takeoverWait is how long control may take to give routes that are held back to
	// another router. If it does not, the claim that led to this was wrong: the routes
	// are offered again, and not held back for takeoverPause.
	takeoverWait  = 15 * time.Second
	takeoverPause = 10 * time.Minute
)

// probe keeps the probes going, and the routes with a router whose probes pass.
func (r *Router) probe(ctx context.Context) error {
	if len(r.cfg.Probes) == 0 {
		return nil
	}
	go r.prober.Run(ctx)
	tick := time.NewTicker(failoverEvery)
	defer tick.Stop()
	var over, pauseUntil time.Time // the end of the wait for a takeover, and of a pause
	var taken func() bool
	var offered []netip.Prefix // before they were held back
	took := false              // another router has the routes that are held back
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
			r.log.Info("probes pass: routes offered again")
		case len(failing) == 0:
		case !held:
			routes := r.servableRoutes()
			if len(routes) == 0 || time.Now().Before(pauseUntil) || !r.peerServes(ctx, routes) {
				continue
			}
			taken = r.peers.Takeover(routes)
			over = time.Now().Add(takeoverWait)
			offered = routes
			r.holdBack(true)
			r.log.Warn("probes fail here and not at another router: routes withdrawn", "failing", probe.String(failing))
		case !took && time.Now().After(over):
			release()
			r.log.Warn("control gave the routes to no other router: routes offered again", "failing", probe.String(failing),
				"fix", "approve the same routes for each router of the service, or set autoApprovers for its tag")
		case !r.peerServes(ctx, offered):
			release()
			r.log.Warn("probes fail, but no other router is better off: routes offered again", "failing", probe.String(failing))
		}
	}
}

func (r *Router) holdBack(hold bool) {
	r.heldBack.Store(hold)
	r.node.HoldBack(hold)
}

// othersServe reports whether another router may serve routes, and its probes pass.
func (r *Router) peerServes(ctx context.Context, routes []netip.Prefix) bool {
	return r.peers.AskPeers(ctx, func(s handover.State) bool { return s.Healthy && s.Serves(routes) })
}

// kick wakes who waits for c, or is about to.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
