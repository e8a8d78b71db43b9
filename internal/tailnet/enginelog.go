package tailnet

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"subnetrouter/internal/secret"

	"tailscale.com/types/logger"
)

// maxEngineText bounds a line of the engine's log in bytes: it may quote control.
const maxEngineText = 4 << 10

// engineLogf returns a function that logs the engine's lines at debug level, after
// [Node.watchLog] has seen them. The engine may call it with its locks held.
func (n *Node) engineLogf() logger.Logf {
	return func(format string, args ...any) {
		n.watchLog(format, args)
		if !n.log.Enabled(context.Background(), slog.LevelDebug) {
			return
		}
		n.log.Debug("engine", "text", secret.Clean(fmt.Sprintf(format, args...), maxEngineText))
	}
}

// notFound is part of the error of a map request for a node that control has removed.
// The engine takes it for an outage, and keeps its last netmap forever.
const notFound = "initial fetch failed 404"

// removedAfter is the number of such errors in a row that mean a removal. A single one may
// end a connection for another reason.
const removedAfter = 2

// watchLog derives Status.Removed from the engine's log, its only signal that control
// answers map requests with 404. Headscale answers only updates so, and keeps the poll of a
// removed node open.
func (n *Node) watchLog(format string, args []any) {
	poll := len(args) == 1 && strings.HasSuffix(format, "Received error: %v")
	update := len(args) == 2 && strings.Contains(format, "lite map update error")
	if !poll && !update {
		return
	}
	err, ok := args[len(args)-1].(error)
	if !ok {
		return
	}
	found := !strings.Contains(err.Error(), notFound)
	n.state.set(func(s *Status) {
		if s.notFoundCount++; found {
			s.notFoundCount = 0
		}
		s.Removed = s.Removed || s.notFoundCount >= removedAfter
	})
}
