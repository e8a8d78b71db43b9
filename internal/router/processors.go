package router

import (
	"context"

	"subnetrouter/internal/processors"
)

// newScaler takes control of the number of processors that the Go runtime uses; it returns
// nil if keep is set. Call it after the data path was built, which starts one worker for each
// processor that there may be, and before the engine starts, whose pools hold buffers for
// each processor that there is.
func newScaler(keep bool) *processors.Scaler {
	if keep {
		return nil
	}
	return processors.New()
}

// scale follows the load until ctx ends.
func scale(ctx context.Context, s *processors.Scaler) error {
	if s != nil {
		s.Run(ctx)
	}
	return nil
}
