package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"

	"subnetrouter/internal/config"
	"subnetrouter/internal/doctor"
	"subnetrouter/internal/limits"
	"subnetrouter/internal/ops"
	"subnetrouter/internal/router"

	"golang.org/x/term"
)

// examine is `router doctor`.
func examine(ctx context.Context, in invocation) int {
	asJSON, in := takeFlag(in, "json")
	cfg, err := config.Load(in.args, in.environ)
	if err != nil {
		fmt.Fprintln(in.err, err)
		return exitConfig
	}
	report := doctor.Run(ctx, doctor.Checks(doctor.Subject{
		Config:    cfg,
		Bootstrap: router.LookUpConfig(cfg, slog.New(slog.DiscardHandler)),
		Status:    func(ctx context.Context) (ops.Status, error) { return askStatus(ctx, cfg) },
		RelayList: func(ctx context.Context) ([]byte, error) { return askRelays(ctx, cfg) },
		Approve:   func(ps []netip.Prefix) string { return router.AutoApprovers(ps, cfg.Tags) },
		Memory:    limits.TaskMemory,
		GoMemory:  environment(in.environ, "GOMEMLIMIT"),
	}))
	if asJSON {
		enc := json.NewEncoder(in.out)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		enc.Encode(report)
	} else {
		report.Print(in.out, coloured(in.out, in.environ))
	}
	if !report.OK {
		return exitFailed
	}
	return exitOK
}

// coloured follows https://no-color.org: colour is for terminals whose user does
// not mind.
func coloured(w io.Writer, environ []string) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && environment(environ, "NO_COLOR") == "" && environment(environ, "TERM") != "dumb"
}

func askStatus(ctx context.Context, cfg config.Config) (s ops.Status, err error) {
	code, body, err := get(ctx, cfg.LocalURL("/status"))
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("asking the router for its status: HTTP %d", code)
	}
	if err == nil {
		err = json.Unmarshal(body, &s)
	}
	return s, err
}

func askRelays(ctx context.Context, cfg config.Config) ([]byte, error) {
	code, body, err := get(ctx, cfg.LocalURL("/derpmap"))
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("asking the router for its relays: HTTP %d", code)
	}
	return body, err
}
