package main

import (
	"io"
	"log/slog"
	"time"

	"subnetrouter/internal/config"
	"subnetrouter/internal/eventlog"
	"subnetrouter/internal/secret"
)

// flushTimeout bounds the wait for the output when the process exits.
const flushTimeout = time.Second

func newLogger(cfg config.Config, out io.Writer) (*slog.Logger, *eventlog.Log) {
	opts := &slog.HandlerOptions{Level: cfg.LogLevel}
	j := eventlog.Open(out, func(w io.Writer) slog.Handler {
		if cfg.LogFormat == "text" {
			return slog.NewTextHandler(w, opts)
		}
		return slog.NewJSONHandler(w, opts)
	})
	return slog.New(secret.NewHandler(j.Handler())), j
}
