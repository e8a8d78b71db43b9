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

// stopper follows SIGTERM and SIGINT from the first moment of `router run`: the
// first one ends its context, the second one ends the process. Neither waits for
// anything, the log included.
type stopper struct {
	ctx       context.Context
	cancel    context.CancelFunc
	logSignal atomic.Pointer[func(second bool, signal os.Signal)]
}

// exitWithin bounds the time from the second signal to the end of the process.
const exitWithin = 500 * time.Millisecond

// watchSignals returns a context that ends at the first signal. As process 1 of a
// container nothing else would end the process at the second one: the kernel gives
// process 1 no default action for signals.
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
			os.Exit(exitFailed)
		}
	}()
	return s.ctx, s
}

// logTo has the signals logged; flush is called before the second one ends the process.
func (s *stopper) logTo(log *slog.Logger, flush func(time.Duration)) {
	say := func(second bool, signal os.Signal) {
		if !second {
			log.Info("stopping", "signal", signal.String())
			return
		}
		log.Error("stopping at once", "signal", signal.String())
		flush(exitWithin / 2)
	}
	s.logSignal.Store(&say)
}

func (s *stopper) log(second bool, signal os.Signal) {
	if say := s.logSignal.Load(); say != nil {
		(*say)(second, signal)
	}
}
