package router

import (
	"context"

	"subnetrouter/internal/processors"
)

// newScaler takes control of the number of processors that the Go runtime uses; it returns
// nil if keep is set. Call it after building the data path, which starts one worker for
// each processor of the machine, and before starting the engine, whose pools hold buffers
// for each processor in use.
func newScaler(keep bool) *processors.Scaler {
	if keep {
		return nil
	}
	return processors.New()
}

// scale adapts the number of processors to the load until ctx ends.
func scale(ctx context.Context, s *processors.Scaler) error {
	if s != nil {
		s.Run(ctx)
	}
	return nil
}
