// Package router is the program: it builds the parts, makes the look-ups of a start, joins
// the tailnet, forwards, and drains.
package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"subnetrouter/internal/ops"
	"subnetrouter/internal/slot"

	"golang.org/x/sync/errgroup"
)

// Options holds the settings that the binary decides, not its configuration.
type Options struct {
	Version ops.Version
	// Resolve returns the address to dial for a target; nil dials the target itself.
	Resolve func(network string, target netip.AddrPort) (netip.AddrPort, error)
	// DenyDial reports whether an address returned by Resolve must not be dialed; nil uses
	// the deny list.
	DenyDial func(target netip.AddrPort) bool
	// KeepMemoryLimit and KeepProcessors leave the Go runtime's memory limit and number of
	// processors as they are: the operator set GOMEMLIMIT, or GOMAXPROCS.
	KeepMemoryLimit, KeepProcessors bool
}

const (
	// drainGrace is how long a drain may exceed ROUTER_DRAIN_TIMEOUT, because a part is
	// stuck, before the process exits regardless.
	drainGrace = 2 * time.Second
	// stopWait is how long the parts may take to return after their context is canceled.
	stopWait = 2 * time.Second
)

// Run joins the tailnet, forwards until ctx ends, and drains. It returns nil after a clean
// drain. It may be called once.
//
// Two contexts: the drain begins when ctx ends; serving ends once the flows are drained.
func (r *Router) Run(ctx context.Context) error {
	cfg, log := r.cfg, r.log
	serving, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	group, serving := errgroup.WithContext(serving)

	server, err := ops.Listen(r.opsConfig())
	if err != nil {
		return err
	}
	r.deny.Opened(server.Addr())
	group.Go(func() error { return server.Serve(serving) })
	if r.flowLog != nil {
		group.Go(func() error { return r.flowLog.run(serving) })
	}
	if r.emf != nil {
		group.Go(func() error { return r.emf.run(serving) })
	}
	if cfg.DebugListen != "" {
		group.Go(func() error { return r.serveDebug(serving) })
	}
	// The look-ups run while the engine starts.
	r.lookUps.start(serving)
	scaler := newScaler(r.opts.KeepProcessors)
	group.Go(func() error { return r.fitLimits(serving, scaler) })
	group.Go(func() error { return r.access.run(serving) })
	group.Go(func() error { return r.logNotReady(serving) })
	group.Go(func() error { return r.logReady(serving) })
	up := make(chan error, 1)
	go func() { up <- r.startNode(ctx) }()
	var failed error
	select {
	case failed = <-up:
	case <-ctx.Done():
		// An identity may be open, or about to be: then it is released.
		select {
		case failed = <-up:
		case <-time.After(stopWait):
		}
	case <-serving.Done():
	}
	// Control does not know this router yet: there is nothing to hand over.
	switch {
	case ctx.Err() != nil:
		log.Info("stopped before the engine started")
		cancel()
		err := awaitParts(group, log)
		r.releaseIdentity(slot.Stays)
		return err
	case failed != nil, serving.Err() != nil:
		cancel()
		err := errors.Join(failed, awaitParts(group, log))
		r.releaseIdentity(slot.Stays)
		return err
	}
	group.Go(func() error { return r.keepIdentity(serving) })
	if cfg.TailnetStatus {
		group.Go(func() error { return r.serveTailnetStatus(serving, server) })
	}
	if r.egress != nil {
		group.Go(func() error { return r.serveEgress(serving) })
	}
	if cfg.EgressAll != "" {
		group.Go(func() error { return r.forwardAllPorts(serving) })
	}
	group.Go(func() error { return scale(serving, scaler) })
	group.Go(func() error { return r.join(serving) })
	group.Go(func() error { return r.followRoutes(serving) })
	group.Go(func() error { return r.followZones(serving) })
	group.Go(func() error { return r.served.follow(serving) })
	group.Go(func() error { return r.serveTLS(serving) })
	group.Go(func() error { return r.registerDNS(serving) })
	group.Go(func() error { return r.lookUps.credentials.watch(serving, r.cfg.Refresh) })
	group.Go(func() error { return r.answerPeers(serving) })
	group.Go(func() error { return r.probe(serving) })
	group.Go(func() error { return r.runDenyList(serving) })
	group.Go(func() error { return r.watchTagged(serving) })

	select {
	case <-ctx.Done():
	case <-r.identity.Load().Lost():
		return r.identityLost()
	case <-serving.Done(): // one of them failed
		err, unclosed := awaitParts(group, log), r.closeNode(context.Background())
		if unclosed == nil { // else the engine may still use the slot
			r.releaseIdentity(slot.Stays)
		}
		return errors.Join(err, unclosed)
	}
	err = within(cfg.DrainTimeout+drainGrace, "draining", r.identity.Load().Lost(), r.drain)
	if errors.Is(err, errStopNow) {
		return r.identityLost()
	}
	cancel()
	return errors.Join(err, awaitParts(group, log))
}

// errStopNow is the error of [within] if it was told to stop.
var errStopNow = errors.New("stopped at once")

// within runs f and returns its error, errStopNow if stop is closed, or an error that names
// doing if f takes longer than limit. In the last two cases f's goroutine is abandoned; the
// caller exits the process.
func within(limit time.Duration, doing string, stop <-chan struct{}, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-stop:
		return errStopNow
	case <-time.After(limit):
		return fmt.Errorf("%s: a part of the router is stuck: not done within %v", doing, limit)
	}
}

// awaitParts waits for the goroutines of group, and returns the error of the part that
// failed, if any. If a part does not return in time, awaitParts logs it and returns nil: the
// process exits without it.
func awaitParts(group *errgroup.Group, log *slog.Logger) error {
	var failed error
	if stuck := within(stopWait, "stopping", nil, func() error { failed = group.Wait(); return nil }); stuck != nil {
		log.Warn("exiting without waiting for a part that is stuck", "err", stuck)
		return nil
	}
	return failed
}
