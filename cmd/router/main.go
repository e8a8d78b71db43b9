// Command router is a Tailscale subnet router for an AWS VPC, made to be the
// entrypoint of an ECS task. `router help` lists its commands; under the name
// "tailscale" it is the stock Tailscale command line.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"subnetrouter/internal/config"
	"subnetrouter/internal/secret"
	"subnetrouter/internal/tailnet"
)

// Exit codes, part of the contract with schedulers and scripts.
const (
	exitOK     = 0
	exitFailed = 1 // at run time
	exitConfig = 2 // what was asked for cannot be done as written
)

func main() {
	os.Exit(dispatch(invocation{args: os.Args, environ: os.Environ(), out: os.Stdout, err: os.Stderr}))
}

// invocation is one call of the binary, with all that it may read and write.
type invocation struct {
	args     []string // args[0] is the name it was called by
	environ  []string
	out, err io.Writer
}

var commands = map[string]struct {
	run  func(context.Context, invocation) int
	help string
}{
	"run":         {runRouter, "run the router (the default)"},
	"plan":        {plan, "dry run: where am I, which routes and why; joins nothing [--json, or --iam: the task role's policy]"},
	"doctor":      {examine, "check all that the router needs, running or not, and say what to change [--json]"},
	"status":      {status, "ask the running router for its state [--json]"},
	"healthcheck": {healthcheck, "exit 0 if the running router is live [--ready: ready; --started: live, and ready once]"},
	"version":     {version, "print version, commit and Tailscale version"},
}

func dispatch(in invocation) int {
	keepSecrets(in.environ)
	if filepath.Base(in.args[0]) == "tailscale" {
		if err := tailnet.CLI(in.args[1:]); err != nil {
			fmt.Fprintln(in.err, err)
			return exitFailed
		}
		return exitOK
	}
	name := "run"
	rest := in.args[1:]
	if len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
		name, rest = rest[0], rest[1:]
	}
	in.args = rest
	if name == "help" || len(rest) > 0 && (rest[0] == "-h" || rest[0] == "--help" || rest[0] == "-help") {
		fmt.Fprint(in.out, usage())
		return exitOK
	}
	command, ok := commands[name]
	if !ok {
		fmt.Fprintf(in.err, "router: there is no command %q; `router help` lists them\n", name)
		return exitConfig
	}
	return command.run(context.Background(), in)
}

// secretVariables hold credentials, or the key to those of the task role.
var secretVariables = []string{
	"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN",
	"AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
}

// proxyVariables may have a user and a password.
var proxyVariables = []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"}

// keepSecrets keeps the values of secretVariables, and the passwords of proxyVariables, out
// of all output.
func keepSecrets(environ []string) {
	for _, name := range secretVariables {
		value := environment(environ, name)
		secret.Keep(value, path.Base(value)) // the endpoint may quote the last part of its path
	}
	for _, name := range proxyVariables {
		secret.KeepProxy(environment(environ, name))
	}
}

func usage() string {
	var b strings.Builder
	b.WriteString("Usage: router [command] [flags]\n\nCommands:\n")
	for _, name := range []string{"run", "plan", "doctor", "status", "healthcheck", "version"} {
		fmt.Fprintf(&b, "  %-12s %s\n", name, commands[name].help)
	}
	b.WriteString("  help         this text\n\n")
	b.WriteString(config.Usage())
	return b.String()
}
