package tailnet

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"tailscale.com/types/logger"
)

// engineLogf turns the engine's printf lines into debug records, and listens to
// what it says of control.
func (n *Node) engineLogf() logger.Logf {
	return func(format string, args ...any) {
		n.overhear(format, args)
		if !n.log.Enabled(context.Background(), slog.LevelDebug) {
			return
		}
		n.log.Debug("engine", "text", strings.TrimSpace(fmt.Sprintf(format, args...)))
	}
}
