package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"subnetrouter/internal/awstest"
	"subnetrouter/internal/routertest"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes the test binary the router, under the names that the image has.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"router": main, "tailscale": main})
}

// TestScripts runs the sessions of testdata/*.txt.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			for _, name := range []string{"PATH", "HOME"} {
				env.Setenv(name, os.Getenv(name))
			}
			// The scripts find the commands of Main first on PATH.
			exe, err := exec.LookPath("router")
			if err != nil {
				return err
			}
			env.Setenv("PATH", filepath.Dir(exe)+string(os.PathListSeparator)+os.Getenv("PATH"))
			return startAWS(env)
		},
	})
}

// startAWS gives every script an account with one VPC, and a Fargate task in it.
func startAWS(env *testscript.Env) error {
	server, err := awstest.NewServer("", routertest.World())
	if err != nil {
		return err
	}
	env.Defer(func() { server.Close() })
	metadata, err := awstest.NewMetadata("", routertest.Task())
	if err != nil {
		return err
	}
	env.Defer(func() { metadata.Close() })
	for _, set := range []map[string]string{server.Env(), metadata.Env()} {
		for name, value := range set {
			env.Setenv(name, value)
		}
	}
	return nil
}
