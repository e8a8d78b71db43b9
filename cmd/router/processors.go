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

// scaleProcessors gives the Go runtime as many processors as the load needs and the task
// may use, unless GOMAXPROCS says how many.
func (r *router) scaleProcessors(ctx context.Context) error {
	if os.Getenv("GOMAXPROCS") != "" {
		return nil
	}
	s := processors.New()
	go func() {
		if place, err := r.bootstrap.awaitPlace(ctx); err == nil {
			s.Limit(place.Limits.CPU)
		}
	}()
	s.Run(ctx)
	return nil
}
