package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/signal"
	"syscall"
	"time"

	"subnetrouter/internal/config"
	"subnetrouter/internal/eventlog"
	"subnetrouter/internal/ops"

	"golang.org/x/sync/errgroup"
)

// runRouter is `router run`.
func runRouter(ctx context.Context, in invocation) int {
	ctx, stop := watchSignals(ctx)
	// A log whose reader has gone is lost, and counted; traffic goes on.
	signal.Ignore(syscall.SIGPIPE)
	cfg, err := loadConfig(ctx, in)
	if ctx.Err() != nil {
		return exitOK
	}
	if err != nil {
		problems := eventlog.NewQueue(in.err, func(uint64) {}) // standard error may block, too
		fmt.Fprintln(problems, err)
		problems.Flush(lastWords)
		return exitConfig
	}
	calm := calmRuntime(in.environ, stop)
	log, events := newLogger(cfg, in.out)
	defer events.Flush(lastWords)
	stop.logTo(log, events.Flush)
	captureStandardLog(log)
	if calm != nil {
		log.Warn("the router goes on, and costs more CPU between packets", "err", calm)
	}
	if err := run(ctx, cfg, log, events); err != nil {
		log.Error("router failed", "err", err)
		return exitFailed
	}
	log.Info("router stopped")
	return exitOK
}

// loadConfig reads the configuration, or gives up when ctx ends: a value may be in a
// file on a disk that does not answer.
func loadConfig(ctx context.Context, in invocation) (config.Config, error) {
	type result struct {
		cfg config.Config
		err error
	}
	loaded := make(chan result, 1)
	go func() {
		cfg, err := config.Load(in.args, in.environ)
		loaded <- result{cfg, err}
	}()
	select {
	case r := <-loaded:
		return r.cfg, r.err
	case <-ctx.Done():
		return config.Config{}, ctx.Err()
	}
}

const (
	// drainGrace is how long a drain may take beyond ROUTER_DRAIN_TIMEOUT before the
	// process ends regardless: a part that it needs is stuck.
	drainGrace = 2 * time.Second
	// endWait is how long the parts may take to end once nothing needs them.
	endWait = 2 * time.Second
)

// run is the product's story: build, listen, find out, join, forward, drain.
// ctx says stop; what must go on while draining lives in serving instead.
func run(ctx context.Context, cfg config.Config, log *slog.Logger, events *eventlog.Log) error {
	for _, w := range cfg.Warnings {
		log.Warn("configuration", "text", w)
	}
	log.Info("router starting", "version", buildVersion(), "tailscale", tailscaleVersion())

	r, err := newRouter(cfg, log, events)
	if err != nil {
		return err
	}
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
	if cfg.DebugListen != "" {
		group.Go(func() error { return r.serveDebug(serving) })
	}
	// The look-ups run while the engine comes up.
	r.bootstrap.start(serving)
	scaler := newScaler()
	up := make(chan error, 1)
	go func() { up <- r.startNode() }()
	select {
	case err := <-up:
		if err != nil {
			return err
		}
	case <-ctx.Done(): // control has not heard of this router: there is nothing to hand over
		log.Info("stopped before the engine was up")
		cancel()
		return awaitParts(group, log)
	case <-serving.Done():
		return awaitParts(group, log)
	}
	group.Go(func() error { return r.fit(serving, scaler) })
	group.Go(func() error { return scale(serving, scaler) })
	group.Go(func() error { return r.join(serving) })
	group.Go(func() error { return r.keepRoutes(serving) })
	group.Go(func() error { return r.bootstrap.credentials.keep(serving, r.cfg.Refresh) })
	group.Go(func() error { return r.help(serving) })
	group.Go(func() error { return r.probe(serving) })
	group.Go(func() error { return r.keepDenyList(serving) })
	group.Go(func() error { return r.watchTagged(serving) })
	group.Go(func() error { return r.watchBoot(serving) })
	group.Go(func() error { return r.watchReady(serving) })

	select {
	case <-ctx.Done():
	case <-serving.Done(): // one of them failed
		return errors.Join(awaitParts(group, log), r.leave(context.Background()))
	}
	err = within(cfg.DrainTimeout+drainGrace, "draining", r.drain)
	cancel()
	return errors.Join(err, awaitParts(group, log))
}

// within runs f and returns its error, or one that names doing if f takes longer than
// limit: then its goroutine is left behind, for the process ends.
func within(limit time.Duration, doing string, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-time.After(limit):
		return fmt.Errorf("%s: a part of the router is stuck: no end within %v", doing, limit)
	}
}

// awaitParts returns the error of the part that failed, if one did. A part that does
// not end is logged, and changes nothing: the process ends without it.
func awaitParts(group *errgroup.Group, log *slog.Logger) error {
	var failed error
	if stuck := within(endWait, "stopping", func() error { failed = group.Wait(); return nil }); stuck != nil {
		log.Warn("the process ends before its parts", "err", stuck)
		return nil
	}
	return failed
}
