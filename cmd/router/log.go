package main

import (
	"io"
	"log/slog"

	"subnetrouter/internal/config"
	"subnetrouter/internal/journal"
	"subnetrouter/internal/secret"
)

func newLogger(cfg config.Config, out io.Writer) (*slog.Logger, *journal.Journal) {
	opts := &slog.HandlerOptions{Level: cfg.LogLevel}
	var h slog.Handler = slog.NewJSONHandler(out, opts)
	if cfg.LogFormat == "text" {
		h = slog.NewTextHandler(out, opts)
	}
	j := journal.New(h)
	return slog.New(secret.NewHandler(j.Handler())), j
}
