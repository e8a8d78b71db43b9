// Command sandbox shows the router at work on one machine, without an account,
// root or a network: a throwaway control server, AWS endpoints and a VPC, the
// real router binary that finds its way by the same environment as on ECS, and
// a client that reaches into the VPC through it.
//
//	make sandbox              # stays up until Ctrl-C
//	make sandbox ARGS=--once  # all of it, then exits with 0 or 1
//
// The one thing that is not as on ECS is the router's last hop: it is built
// with the tag "sandbox", by which it dials the VPC in this process.
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
)

func main() {
	o := options{out: os.Stdout, colour: wantsColour(os.Stdout)}
	flag.BoolVar(&o.once, "once", false, "show everything, stop, and exit with 0, or with 1 if a step failed")
	flag.BoolVar(&o.verbose, "verbose", false, "show the router's log")
	flag.DurationVar(&o.timeout, "timeout", time.Minute, "how long everything after the build may take; without --once, the start and the stop each")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "sandbox: unexpected argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	tailnettest.Isolate()
	sandboxed.OnLoopback()
	ctx, stop := untilSignal(context.Background())
	defer stop()
	os.Exit(run(ctx, o))
}

// untilSignal ends when the user, or the terminal that goes away, says so.
func untilSignal(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
}

type options struct {
	once, verbose, colour bool
	timeout               time.Duration // of what follows the build
	out                   io.Writer
	alter                 func(*world) // tests break the world with it
}

// run returns the exit code: 0, or 1 if a step failed.
func run(ctx context.Context, o options) int {
	s := &story{options: o, show: newShow(o.out, o.colour)}
	defer s.cleanUp()
	err := s.tell(ctx)
	if err == nil {
		return 0
	}
	var failed *stepError
	if errors.As(err, &failed) {
		s.show.failure(failed, s.reasons, s.log.last(shownLines))
	} else {
		fmt.Fprintln(o.out, "sandbox:", err)
	}
	return 1
}
