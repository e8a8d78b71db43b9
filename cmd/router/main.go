// Command router is a Tailscale subnet router for an AWS VPC, made to be the
// entrypoint of an ECS task. `router help` lists its commands; called by the
// name "tailscale", it is the stock Tailscale command line.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"subnetrouter/internal/privilege"
	"subnetrouter/internal/secret"
	"subnetrouter/internal/tailnet"
)

// Exit codes, part of the contract with schedulers and scripts.
const (
	exitOK     = 0
	exitFailed = 1 // at run time
	exitConfig = 2 // a malformed configuration or command line
)

func main() {
	privilege.Begin()
	os.Exit(dispatch(invocation{args: os.Args, environ: os.Environ(), out: os.Stdout, err: os.Stderr}))
}

// invocation holds everything that one call of the binary may read and write.
type invocation struct {
	args     []string // args[0] is the name of the binary
	environ  []string
	out, err io.Writer
}

func dispatch(in invocation) int {
	redactSecrets(in.environ)
	name, args := filepath.Base(in.args[0]), in.args[1:]
	if name == "tailscale" {
		if err := privilege.Drop(); err != nil {
			fmt.Fprintln(in.err, err)
			return exitFailed
		}
		if err := tailnet.CLI(args); err != nil {
			fmt.Fprintln(in.err, err)
			return exitFailed
		}
		return exitOK
	}
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		switch {
		case len(args) > 0 && isHelp(args[0]):
			return help(in, nil)
		case len(args) > 0 && (args[0] == "--version" || args[0] == "-version"):
			args = append([]string{"version"}, args[1:]...)
		default:
			args = append([]string{"run"}, args...)
		}
	}
	if args[0] == "help" {
		return help(in, args[1:])
	}
	c, ok := find(args[0])
	if !ok {
		return unknownCommand(in, args[0])
	}
	if c.name != "run" { // which drops them when it knows its needs
		if err := privilege.Drop(); err != nil {
			fmt.Fprintln(in.err, err)
			return exitFailed
		}
	}
	in.args = args[1:]
	return c.execute(context.Background(), in)
}

func isHelp(arg string) bool { return arg == "-h" || arg == "-help" || arg == "--help" }

// secretVariables hold credentials, or the key to those of the task role.
var secretVariables = []string{
	"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN",
	"AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", apiKeyVariable,
}

// proxyVariables may contain a user and a password.
var proxyVariables = []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"}

// redactSecrets removes the values of secretVariables, and the passwords of proxyVariables,
// from all later output.
func redactSecrets(environ []string) {
	for _, name := range secretVariables {
		value := environment(environ, name)
		secret.Keep(value, path.Base(value)) // the endpoint may quote the last part of its path
	}
	for _, name := range proxyVariables {
		secret.KeepProxy(environment(environ, name))
	}
}

// environment returns the value of a variable as os.Getenv does: the first one counts.
func environment(environ []string, name string) string {
	for _, e := range environ {
		if value, ok := strings.CutPrefix(e, name+"="); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
