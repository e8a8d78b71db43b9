package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"

	"subnetrouter/internal/bootstrap"
	"subnetrouter/internal/bootstrap/iam"
	"subnetrouter/internal/config"
	"subnetrouter/internal/router"
	"subnetrouter/internal/secret"
	"subnetrouter/internal/why/gather"
)

// metadataVariable is set by ECS in each task.
const metadataVariable = "ECS_CONTAINER_METADATA_URI_V4"

// environForPolicy returns environ with the variable of task metadata set, so that route
// sources that need a task are accepted outside of one: nothing is looked up.
func environForPolicy(environ []string) []string {
	if environment(environ, metadataVariable) != "" {
		return environ
	}
	return append([]string{metadataVariable + "=" + noMetadata}, environ...)
}

// noMetadata stands for the metadata of a task that does not exist yet.
const noMetadata = "http://169.254.170.2/v4/none"

// printPolicy runs `router plan --iam`: it prints the policy of the task role for this
// configuration. It reads task metadata, if there is any, but makes no AWS calls, so that it
// works before there is a task. why adds the actions of `router why`.
func printPolicy(ctx context.Context, in call, cfg config.Config, kmsKey string, why bool) int {
	if cfg.MetadataURI == noMetadata {
		cfg.MetadataURI = ""
	}
	printWarnings(in.err, cfg)
	region := environment(in.environ, "AWS_REGION")
	if region == "" {
		region = environment(in.environ, "AWS_DEFAULT_REGION")
	}
	ctx, cancel := context.WithTimeout(ctx, planTimeout)
	defer cancel()
	var more []iam.Need
	if why {
		more = gather.Needs()
	}
	policy, err := bootstrap.New(router.LookUpConfig(cfg, slog.New(slog.DiscardHandler))).Policy(ctx, region, kmsKey, more...)
	if err != nil {
		fmt.Fprintln(in.err, secret.Scrub(err.Error()))
		return exitFailed
	}
	if kmsKey == "" && cfg.Credential.Stored() != "" {
		fmt.Fprintln(in.err, "router: a secret or parameter encrypted with a customer managed KMS key also needs kms:Decrypt: add --kms-key=ARN")
	}
	for _, note := range policy.Notes {
		fmt.Fprintln(in.err, "router: "+note)
	}
	enc := json.NewEncoder(in.out)
	enc.SetIndent("", "  ")
	enc.Encode(policy)
	return exitOK
}
