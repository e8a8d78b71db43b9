package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"
)

// stopper handles SIGTERM and SIGINT from the start of `router run`: the first one cancels
// its context, the second one exits the process. Neither waits for the log or anything
// else.
type stopper struct {
	ctx       context.Context
	cancel    context.CancelFunc
	logSignal atomic.Pointer[func(second bool, signal os.Signal)]
	abandon   atomic.Pointer[func()]
}

// exitWithin bounds the time from the second signal to the end of the process.
const exitWithin = 500 * time.Millisecond

// watchSignals returns a context that ends at the first signal. The second one must be
// handled, too: the kernel has no default action for signals to process 1 of a container.
func watchSignals(ctx context.Context) (context.Context, *stopper) {
	s := new(stopper)
	s.ctx, s.cancel = context.WithCancel(ctx)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		for signal := range signals {
			if s.ctx.Err() == nil {
				s.cancel()
				s.log(false, signal)
				continue
			}
			time.AfterFunc(exitWithin, func() { os.Exit(exitFailed) })
			s.log(true, signal)
			if f := s.abandon.Load(); f != nil {
				(*f)()
			}
			os.Exit(exitFailed)
		}
	}()
	return s.ctx, s
}

// logTo logs the signals from now on to log. flush is called before the second one exits the
// process.
func (s *stopper) logTo(log *slog.Logger, flush func(time.Duration)) {
	logSignal := func(second bool, signal os.Signal) {
		if !second {
			log.Info("stopping", "signal", signal.String())
			return
		}
		log.Error("stopping at once", "signal", signal.String())
		flush(exitWithin / 2)
	}
	s.logSignal.Store(&logSignal)
}

// abandonWith calls f before the second signal exits the process.
func (s *stopper) abandonWith(f func()) { s.abandon.Store(&f) }

func (s *stopper) log(second bool, signal os.Signal) {
	if f := s.logSignal.Load(); f != nil {
		(*f)(second, signal)
	}
}
