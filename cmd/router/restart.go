package main

import (
	"context"
	"log/slog"
	"os"
	"syscall"
	"time"

	"subnetrouter/internal/eventlog"
)

// restartFlush bounds the wait for the log's output before a restart. The engine still runs
// meanwhile, and must stop sending within a second of the end of a lease.
const restartFlush = 100 * time.Millisecond

// restart replaces this process with a new one of the same program, arguments and
// environment. All sockets close at once, without another packet. The new process waits for an
// identity, not ready, in a container that keeps running: during an outage of AWS, ECS might
// not be able to start another. A process that was asked to stop, or that cannot be replaced,
// exits. restart does not return.
func restart(ctx context.Context, environ []string, log *slog.Logger, events *eventlog.Log) {
	log.Warn("restarting in place")
	events.Flush(restartFlush)
	if ctx.Err() == nil {
		log.Error("restarting in place failed", "err", replace(environ))
		events.Flush(restartFlush)
	}
	os.Exit(exitFailed)
}

// replace replaces this process with a new one of the same program and arguments, and returns only with an error.
func replace(environ []string) error {
	// By its path, as the kernel names the process after the last element: not "exe".
	if path, err := os.Executable(); err == nil {
		syscall.Exec(path, os.Args, environ)
	}
	return syscall.Exec("/proc/self/exe", os.Args, environ)
}
