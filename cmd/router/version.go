package main

import (
	"context"
	"fmt"
	"runtime/debug"

	"subnetrouter/internal/tailnet"
)

// releaseVersion and releaseCommit are set by the linker (-X) in images.
var releaseVersion, releaseCommit string

func buildVersion() string {
	if releaseVersion != "" {
		return releaseVersion
	}
	return "dev"
}

func buildCommit() string {
	if releaseCommit != "" {
		return releaseCommit
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "unknown"
}

func tailscaleVersion() string { return tailnet.Version() }

// version is `router version`.
func version(_ context.Context, in invocation) int {
	fmt.Fprintf(in.out, "router %s\ncommit %s\ntailscale %s\n", buildVersion(), buildCommit(), tailscaleVersion())
	return exitOK
}
