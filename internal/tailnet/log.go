package tailnet

import (
	"context"
	"fmt"
	"log/slog"

	"subnetrouter/internal/secret"

	"tailscale.com/types/logger"
)

// mostEngineText bounds a line of the engine, in bytes: it may quote control.
const mostEngineText = 4 << 10

// engineLogf turns the engine's printf lines into debug records, and listens to
// what it says of control.
func (n *Node) engineLogf() logger.Logf {
	return func(format string, args ...any) {
		n.overhear(format, args)
		if !n.log.Enabled(context.Background(), slog.LevelDebug) {
			return
		}
		n.log.Debug("engine", "text", secret.Clean(fmt.Sprintf(format, args...), mostEngineText))
	}
}
