package main

import (
	"log/slog"
	"os"
	"syscall"
	"time"

	"subnetrouter/internal/eventlog"
)

// restartFlush bounds the wait for the log's output before a restart. The engine still runs
// meanwhile, and must not send for a second after the end of a lease.
const restartFlush = 100 * time.Millisecond

// restart replaces this process with a new one of the same program, arguments and
// environment. All sockets close at once, without another packet. The new process waits for an
// identity, not ready, in a container that keeps running: during an outage of AWS, ECS might
// not be able to start another. It returns only if that fails.
func restart(environ []string, log *slog.Logger, events *eventlog.Log) int {
	log.Warn("restarting in place")
	events.Flush(restartFlush)
	err := syscall.Exec("/proc/self/exe", os.Args, environ)
	log.Error("restarting in place failed", "err", err)
	events.Flush(flushTimeout)
	return exitFailed
}
