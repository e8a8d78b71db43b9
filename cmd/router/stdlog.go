package main

import (
	stdlog "log"
	"log/slog"
	"strings"
)

// captureStandardLog redirects Go's log package, which libraries use, to log: standard error
// may block, and a line may contain a secret, such as the password of a proxy.
func captureStandardLog(log *slog.Logger) {
	stdlog.SetFlags(0)
	stdlog.SetOutput(libraryLog{log})
}

type libraryLog struct{ log *slog.Logger }

func (l libraryLog) Write(p []byte) (int, error) {
	l.log.Info("library", "text", strings.TrimSpace(string(p)))
	return len(p), nil
}
