package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"

	"subnetrouter/internal/config"
	"subnetrouter/internal/doctor"
	"subnetrouter/internal/limits"
	"subnetrouter/internal/ops"
	"subnetrouter/internal/router"
	"subnetrouter/internal/terminal"
)

func doctorCommand(own *flag.FlagSet) func(context.Context, call) int {
	asJSON := own.Bool("json", false, "print JSON")
	return func(ctx context.Context, in call) int {
		cfg, code, ok := in.config()
		if !ok {
			return code
		}
		return examine(ctx, in, cfg, *asJSON)
	}
}

// examine runs `router doctor`.
func examine(ctx context.Context, in call, cfg config.Config, asJSON bool) int {
	report := doctor.Run(ctx, doctor.Checks(doctor.Subject{
		Config:    cfg,
		Bootstrap: router.LookUpConfig(cfg, slog.New(slog.DiscardHandler)),
		Status:    func(ctx context.Context) (ops.Status, error) { s, _, err := askStatus(ctx, cfg.Listen); return s, err },
		DERPMap:   func(ctx context.Context) ([]byte, error) { return askDERPMap(ctx, cfg) },
		Roles:     rolePolicies(cfg),
		Approve:   func(ps []netip.Prefix) string { return router.AutoApprovers(ps, cfg.Credential.Tags) },
		Memory:    limits.TaskMemory,
		GoMemory:  environment(in.environ, "GOMEMLIMIT"),
	}))
	if asJSON {
		enc := json.NewEncoder(in.out)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		enc.Encode(report)
	} else {
		getenv := func(name string) string { return environment(in.environ, name) }
		report.Print(in.out, terminal.Coloured(in.out, getenv), terminal.Width(in.out))
	}
	if !report.OK {
		return exitFailed
	}
	return exitOK
}

func askDERPMap(ctx context.Context, cfg config.Config) ([]byte, error) {
	code, body, err := get(ctx, cfg.LocalURL("/derpmap"))
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("asking the router for its DERP map: HTTP %d", code)
	}
	return body, err
}

// rolePolicies returns the part of the policy that each role of a configuration needs.
func rolePolicies(cfg config.Config) map[string]string {
	out := map[string]string{}
	for _, r := range router.PlanRoles(cfg) {
		text, _ := json.Marshal(r.Policy)
		out[r.Name] = string(text)
	}
	return out
}
