package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"subnetrouter/internal/config"
	"subnetrouter/internal/journal"
	"subnetrouter/internal/ops"

	"golang.org/x/sync/errgroup"
)

// runRouter is `router run`.
func runRouter(ctx context.Context, in invocation) int {
	cfg, err := config.Load(in.args, in.environ)
	if err != nil {
		fmt.Fprintln(in.err, err)
		return exitConfig
	}
	calm := calmRuntime(in.environ)
	log, events := newLogger(cfg, in.out)
	captureStandardLog(log)
	if calm != nil {
		log.Warn("the router goes on, and costs more CPU between packets", "err", calm)
	}
	ctx, stop := onSignal(ctx, log)
	defer stop()
	if err := run(ctx, cfg, log, events); err != nil {
		log.Error("router failed", "err", err)
		return exitFailed
	}
	log.Info("router stopped")
	return exitOK
}

// run is the product's story: build, listen, find out, join, forward, drain.
// ctx says stop; what must go on while draining lives in serving instead.
func run(ctx context.Context, cfg config.Config, log *slog.Logger, events *journal.Journal) error {
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
		group.Go(func() error { return serveDebug(serving, cfg.DebugListen, r.deny.Opened, log) })
	}
	// The look-ups run while the engine comes up.
	r.bootstrap.start(serving)
	scaler := newScaler()
	if err := r.startNode(); err != nil {
		return err
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
		return errors.Join(group.Wait(), r.leave(context.Background()))
	}
	err = r.drain()
	cancel()
	return errors.Join(err, group.Wait())
}

// onSignal returns a context that ends at the first SIGTERM or SIGINT. The
// second exits at once: as process 1 of a container nothing else would, since
// the kernel gives that process no default action for signals.
func onSignal(ctx context.Context, log *slog.Logger) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		first := <-signals
		log.Info("stopping", "signal", first.String())
		cancel()
		second := <-signals
		log.Error("stopping at once", "signal", second.String())
		os.Exit(exitFailed)
	}()
	return ctx, cancel
}
