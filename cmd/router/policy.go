package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"

	"subnetrouter/internal/bootstrap"
	"subnetrouter/internal/config"
	"subnetrouter/internal/router"
	"subnetrouter/internal/secret"
)

// printPolicy is `router plan --iam`: the policy of the task role for this
// configuration. It asks task metadata, where there is any, but never AWS, so
// that it can be printed before there is a task.
func printPolicy(ctx context.Context, in invocation) int {
	kmsKey, in := takeValue(in, "kms-key")
	const metadata = "ECS_CONTAINER_METADATA_URI_V4"
	onECS := environment(in.environ, metadata) != ""
	if !onECS { // sources that need a task are fine, as nothing is looked up
		in.environ = append([]string{metadata + "=http://169.254.170.2/v4"}, in.environ...)
	}
	cfg, err := config.Load(in.args, in.environ)
	if err != nil {
		fmt.Fprintln(in.err, err)
		return exitConfig
	}
	if !onECS {
		cfg.MetadataURI = ""
	}
	printWarnings(in.err, cfg)
	region := environment(in.environ, "AWS_REGION")
	if region == "" {
		region = environment(in.environ, "AWS_DEFAULT_REGION")
	}
	ctx, cancel := context.WithTimeout(ctx, planTimeout)
	defer cancel()
	policy, err := bootstrap.New(router.LookUpConfig(cfg, slog.New(slog.DiscardHandler))).Policy(ctx, region, kmsKey)
	if err != nil {
		fmt.Fprintln(in.err, secret.Scrub(err.Error()))
		return exitFailed
	}
	if kmsKey == "" && !cfg.AuthSecret.IsZero() {
		fmt.Fprintln(in.err, "router: a secret under a KMS key of your own also needs kms:Decrypt: add --kms-key=ARN")
	}
	for _, note := range policy.Notes {
		fmt.Fprintln(in.err, "router: "+note)
	}
	enc := json.NewEncoder(in.out)
	enc.SetIndent("", "  ")
	enc.Encode(policy)
	return exitOK
}

// environment is os.Getenv for the invocation's environment: the first counts.
func environment(environ []string, name string) string {
	for _, e := range environ {
		if value, ok := strings.CutPrefix(e, name+"="); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// takeValue removes a flag with a value, --name=value, that only the command
// knows, as takeFlag does for one without.
func takeValue(in invocation, name string) (value string, rest invocation) {
	rest = in
	rest.args = nil
	for _, a := range in.args {
		if v, ok := strings.CutPrefix(strings.TrimPrefix(a, "-"), "-"+name+"="); ok {
			value = v
			continue
		}
		rest.args = append(rest.args, a)
	}
	return value, rest
}
