// Command sandbox demonstrates the router on one machine, without an AWS or Tailscale
// account, root or a network. It starts a throwaway control server, AWS endpoints and a
// VPC, the real router binary with the same environment as on ECS, and a client that
// reaches the VPC through it.
//
//	make sandbox              # stays up until Ctrl-C
//	make sandbox ARGS=--once  # runs every step, then exits with 0 or 1
//
// The only difference from ECS is the router's last hop: built with the tag "sandbox",
// it dials the services of the VPC in this process.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"subnetrouter/cmd/sandbox/sandboxed"
	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/terminal"
)

func main() {
	o := options{out: os.Stdout, colour: terminal.Coloured(os.Stdout, os.Getenv), width: terminal.Width(os.Stdout)}
	flag.BoolVar(&o.once, "once", false, "run every step, stop, and exit with 0, or with 1 if a step failed")
	flag.BoolVar(&o.verbose, "verbose", false, "show the router's log")
	flag.DurationVar(&o.timeout, "timeout", time.Minute, "timeout for all steps after the build; without --once, for start and stop each")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "sandbox: unexpected argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	tailnettest.Isolate()
	sandboxed.OnLoopback()
	giveBack := takeTerminal(os.Stdin)
	ctx, stop := untilSignal(context.Background())
	code := run(ctx, o)
	stop()
	giveBack()
	os.Exit(code)
}

// untilSignal returns a context that ends at Ctrl-C, SIGTERM or the loss of the terminal.
func untilSignal(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
}

type options struct {
	once, verbose, colour bool
	width                 int           // columns of the terminal; 0 does not wrap
	timeout               time.Duration // for the steps after the build
	out                   io.Writer
	alter                 func(*world) // if not nil, lets a test change the world before the router starts
}

// run returns the exit code: 0, or 1 if a step failed.
func run(ctx context.Context, o options) int {
	s := &demo{options: o, show: newShow(o.out, o.colour, o.width)}
	defer s.cleanUp()
	err := s.run(ctx)
	if err == nil {
		return 0
	}
	if failed, ok := errors.AsType[*stepError](err); ok {
		s.show.failure(failed, s.reasons, s.log.last(shownLines))
	} else {
		fmt.Fprintln(o.out, "sandbox:", err)
	}
	return 1
}
