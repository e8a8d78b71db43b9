package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"

	"subnetrouter/internal/config"
	"subnetrouter/internal/suggest"
	"subnetrouter/internal/terminal"
)

// command describes one command of the binary.
type command struct {
	name    string
	args    string // arguments that are not flags, for its own --help
	summary string // one line, for `router help`
	detail  string // the rest of its own --help
	// settings reports whether the command takes all settings as flags.
	settings bool
	// flags adds the command's own flags to a set, and returns the function that runs
	// the command once they are parsed by [call.config], [call.listen] or [call.noSettings].
	flags func(*flag.FlagSet) func(context.Context, call) int
}

// commands returns all commands but help, in the order of `router help`. It is not a
// variable because the commands' help refers to it.
func commands() []command {
	return []command{
		{
			name: "run", summary: "run the router (the default)",
			detail:   "Joins the tailnet, advertises the routes and forwards, until SIGTERM.",
			settings: true, flags: runCommand,
		},
		{
			name: "plan", summary: "dry run: print the place, the routes and their sources",
			detail:   "Makes the look-ups of a start, and prints the results. Does not join the tailnet or read the credential.",
			settings: true, flags: planCommand,
		},
		{
			name: "doctor", summary: "check everything that the router needs",
			detail:   "Checks configuration, task, AWS, control server and network, whether or not the router runs, and prints how to fix what fails.",
			settings: true, flags: doctorCommand,
		},
		{
			name: "status", summary: "print the state of the running router",
			detail:   "Asks the router at ROUTER_LISTEN on this machine.",
			settings: true, flags: statusCommand,
		},
		{
			name: "why", args: " HOST:PORT", summary: "find the step that stops a flow, from DNS to the service",
			detail:   "Asks the router at ROUTER_LISTEN on this machine. Exits with 0 if nothing stops the flow, and with 1 if a step does.",
			settings: true, flags: whyCommand,
		},
		{
			name: "verify", summary: "wait until routes are approved and primary and probes pass",
			detail: "For pipelines. Asks the router at ROUTER_LISTEN on this machine, or at --at; prints one line, and exits with 0 or 1.\n" +
				"With --api it waits only until the routes are approved. It asks Tailscale's API, with the access token in TAILSCALE_API_KEY or\n" +
				"the router's OAuth client or federated identity, with the scopes devices:core:read and devices:routes:read.",
			settings: true, flags: verifyCommand,
		},
		{
			name: "healthcheck", summary: "exit 0 if the running router is live",
			detail:   "For the health check of a container. Asks the router at ROUTER_LISTEN on this machine.",
			settings: true, flags: healthcheckCommand,
		},
		{
			name: "version", summary: "print version, commit and Tailscale version",
			flags: versionCommand,
		},
		{
			name: "completion", summary: "print the script that completes command lines in bash, zsh or fish",
			detail: "For bash: source <(router completion bash)",
			flags:  completionCommand,
		},
	}
}

func find(name string) (command, bool) {
	all := commands()
	i := slices.IndexFunc(all, func(c command) bool { return c.name == name })
	if i < 0 {
		return command{}, false
	}
	return all[i], true
}

// call holds an invocation of one command.
type call struct {
	invocation
	command command
	own     *flag.FlagSet // the command's own flags
}

func (c command) execute(ctx context.Context, in invocation) int {
	own := flag.NewFlagSet(c.name, flag.ContinueOnError)
	own.SetOutput(io.Discard)
	run := c.flags(own)
	return run(ctx, call{in, c, own})
}

// load parses the command line and reads the configuration.
func (c call) load() (config.Config, error) { return config.Load(c.args, c.environ, c.own) }

// show prints text that fits the terminal.
func (c call) show(text func(io.Writer)) {
	var b strings.Builder
	text(&b)
	fmt.Fprint(c.out, terminal.Fit(b.String(), terminal.Width(c.out), 2))
}

// config loads the configuration. If it returns false, it has printed the help or the
// problems, and the command exits with code.
func (c call) config() (cfg config.Config, code int, ok bool) {
	cfg, err := c.load()
	code, ok = c.parsed(err)
	return cfg, code, ok
}

// listen does the same for commands that need only ROUTER_LISTEN.
func (c call) listen() (address string, code int, ok bool) {
	address, err := config.LoadListen(c.args, c.environ, c.own)
	code, ok = c.parsed(err)
	return address, code, ok
}

// noSettings does the same for commands that take no settings.
func (c call) noSettings() (code int, ok bool) {
	err := c.own.Parse(c.args)
	if err == nil && c.own.NArg() > 0 {
		err = fmt.Errorf("%q is not a flag of `router %s`; --help lists all", c.own.Arg(0), c.command.name)
	}
	return c.parsed(err)
}

func (c call) parsed(err error) (code int, ok bool) {
	switch {
	case err == nil:
		return exitOK, true
	case errors.Is(err, flag.ErrHelp):
		c.command.help(c.out)
		return exitOK, false
	}
	fmt.Fprintln(c.err, err)
	return exitConfig, false
}

// help runs `router help [COMMAND]`.
func help(in invocation, args []string) int {
	switch {
	case len(args) == 0:
		fmt.Fprint(in.out, usage())
		return exitOK
	case args[0] == "help" || isHelp(args[0]):
		fmt.Fprintln(in.out, "Usage: router help [COMMAND]")
		return exitOK
	}
	c, ok := find(args[0])
	if !ok {
		return unknownCommand(in, args[0])
	}
	c.help(in.out)
	return exitOK
}

func unknownCommand(in invocation, name string) int {
	names := []string{"help"}
	for _, c := range commands() {
		names = append(names, c.name)
	}
	hint := "`router help` lists them"
	if near := suggest.Nearest(name, names); near != "" {
		hint = fmt.Sprintf("did you mean `router %s`?", near)
	}
	fmt.Fprintf(in.err, "router: there is no command %q; %s\n", name, hint)
	return exitConfig
}

// help prints the command's own --help.
func (c command) help(w io.Writer) {
	own := flag.NewFlagSet(c.name, flag.ContinueOnError)
	c.flags(own)
	fmt.Fprintf(w, "Usage: router %s%s [flags]\n\n%s%s.\n", c.name, c.args, strings.ToUpper(c.summary[:1]), c.summary[1:])
	if c.detail != "" {
		fmt.Fprintf(w, "%s\n", c.detail)
	}
	first := true
	own.VisitAll(func(f *flag.Flag) {
		if first {
			fmt.Fprint(w, "\nFlags:\n")
			first = false
		}
		value, text := flag.UnquoteUsage(f)
		fmt.Fprintf(w, "  %-18s %s\n", strings.TrimSpace("--"+f.Name+" "+value), text)
	})
	if c.settings {
		fmt.Fprint(w, "\nEach setting is also a flag, such as --routes for ROUTER_ROUTES; `router help` lists them.\n")
	}
}

// usage returns the output of `router help`.
func usage() string {
	var b strings.Builder
	b.WriteString("Usage: router [command] [flags]\n\nCommands:\n")
	for _, c := range commands() {
		fmt.Fprintf(&b, "  %-12s %s\n", c.name, c.summary)
	}
	b.WriteString("  help         print this text, or the help of a command\n\n" +
		"`router COMMAND --help` lists the flags of a command.\n\n")
	b.WriteString(config.Usage())
	return b.String()
}
