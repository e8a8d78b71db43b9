package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os/signal"
	"syscall"

	"subnetrouter/internal/config"
	"subnetrouter/internal/eventlog"
	"subnetrouter/internal/router"
)

func runCommand(*flag.FlagSet) func(context.Context, call) int { return runRouter }

// runRouter runs `router run`.
func runRouter(ctx context.Context, in call) int {
	ctx, stop := watchSignals(ctx)
	// If the reader of the log is gone, lines are lost and counted; traffic continues.
	signal.Ignore(syscall.SIGPIPE)
	cfg, err := loadConfig(ctx, in)
	if ctx.Err() != nil {
		return exitOK
	}
	if errors.Is(err, flag.ErrHelp) {
		in.command.help(in.out)
		return exitOK
	}
	if err != nil {
		problems := eventlog.NewQueue(in.err, func(uint64) {}) // standard error may block, too
		fmt.Fprintln(problems, err)
		problems.Flush(flushTimeout)
		return exitConfig
	}
	log, events := newLogger(cfg, in.out)
	defer events.Flush(flushTimeout)
	stop.logTo(log, events.Flush)
	captureStandardLog(log)
	if err := settle(ctx, cfg, in.environ, log, events); ctx.Err() != nil {
		return exitOK
	} else if err != nil {
		log.Error("router failed", "err", err)
		return exitFailed
	}
	for _, w := range cfg.Warnings {
		log.Warn("configuration", "text", w)
	}
	opts := options(in.environ)
	log.Info("router starting", "version", opts.Version.Router, "tailscale", opts.Version.Tailscale)
	r, err := router.New(cfg, opts, log, events)
	if err == nil {
		stop.abandonWith(r.Abandon)
		err = r.Run(ctx)
	}
	if errors.Is(err, router.ErrIdentityLost) {
		restart(ctx, in.environ, log, events)
	}
	if err != nil {
		log.Error("router failed", "err", err)
		return exitFailed
	}
	log.Info("router stopped")
	return exitOK
}

// loadConfig reads the configuration, or returns when ctx ends: a value may be in a file on a
// disk that does not answer.
func loadConfig(ctx context.Context, in call) (config.Config, error) {
	type result struct {
		cfg config.Config
		err error
	}
	loaded := make(chan result, 1)
	go func() {
		cfg, err := in.load()
		loaded <- result{cfg, err}
	}()
	select {
	case r := <-loaded:
		return r.cfg, r.err
	case <-ctx.Done():
		return config.Config{}, ctx.Err()
	}
}
