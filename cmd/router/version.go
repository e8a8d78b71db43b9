package main

import (
	"context"
	"flag"
	"fmt"
	"runtime/debug"

	"subnetrouter/internal/ops"
	"subnetrouter/internal/router"
	"subnetrouter/internal/tailnet"
)

// releaseVersion and releaseCommit are set by the linker (-X) in images.
var releaseVersion, releaseCommit string

// options returns how this binary runs a router in an environment.
func options(environ []string) router.Options {
	return router.Options{
		Version: versions(), Resolve: resolveTarget, DenyDial: denyDial,
		KeepMemoryLimit: environment(environ, "GOMEMLIMIT") != "",
		KeepProcessors:  environment(environ, "GOMAXPROCS") != "",
	}
}

func versions() ops.Version {
	v := ops.Version{Router: releaseVersion, Commit: releaseCommit, Tailscale: tailnet.Version()}
	if v.Router == "" {
		v.Router = "dev"
	}
	if v.Commit == "" {
		v.Commit = vcsRevision()
	}
	return v
}

func vcsRevision() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "unknown"
}

func versionCommand(*flag.FlagSet) func(context.Context, call) int {
	return func(_ context.Context, in call) int {
		if code, ok := in.noSettings(); !ok {
			return code
		}
		v := versions()
		fmt.Fprintf(in.out, "router %s\ncommit %s\ntailscale %s\n", v.Router, v.Commit, v.Tailscale)
		return exitOK
	}
}
