package main

import (
	"context"
	"fmt"
	"os"
	"syscall"

	"subnetrouter/internal/processors"
)

// calmRuntime starts this program once more, in the same process, with a runtime that
// costs less between packets: it reads how to behave only as it starts. It takes some 9 ms,
// and returns only with an error, or where there is nothing to change.
func calmRuntime(environ []string) error {
	calm, already := processors.Calm(environ)
	if already {
		return nil
	}
	self, err := os.Executable()
	if err == nil {
		err = syscall.Exec(self, os.Args, calm)
	}
	return fmt.Errorf("starting once more with another GODEBUG: %w", err)
}

// newScaler takes over how many processors the Go runtime uses; nil where GOMAXPROCS says
// how many. That is after the data path was made, which has goroutines for all that there
// may be, and before the engine starts, whose pools hold something for each that there is.
func newScaler() *processors.Scaler {
	if os.Getenv("GOMAXPROCS") != "" {
		return nil
	}
	return processors.New()
}

// scaleProcessors follows the load, as far as the task's CPUs go.
func (r *router) scaleProcessors(ctx context.Context, s *processors.Scaler) error {
	if s == nil {
		return nil
	}
	go func() {
		if place, err := r.bootstrap.awaitPlace(ctx); err == nil {
			s.Limit(place.Limits.CPU)
		}
	}()
	s.Run(ctx)
	return nil
}
