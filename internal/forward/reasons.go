package forward

import (
	"context"
	"errors"
	"os"
	"slices"
	"syscall"

	"subnetrouter/internal/packet"
)

// The reasons why a flow could not be opened. The set is closed because it is a metric's label.
const (
	refused     = "refused"
	timedOut    = "timeout"
	unreachable = "unreachable"
	exhausted   = "exhausted" // descriptors, ports or the kernel's memory ran out
	limited     = "limit"     // MaxFlows or MaxFlowsPerPeer is reached
	forbidden   = "forbidden" // by the deny list or the access rules
	other       = "other"
)

// The reasons why flows end. The set is closed because it is a metric's label.
const (
	ended   = "ended"   // both sides closed; for DNS, every query was answered
	idled   = "idle"    // no data for too long
	failed  = "failed"  // one side was reset or disappeared
	cut     = "cut"     // by the router, in a drain
	revoked = "revoked" // by the router, because it is no longer allowed
)

var (
	reasons = []string{refused, timedOut, unreachable, exhausted, limited, forbidden, other}
	endings = []string{ended, idled, failed, cut, revoked}
)

// dialFailure returns the reason for an error of opening a socket or of connecting it.
func dialFailure(err error) string {
	is := func(errnos ...syscall.Errno) bool {
		return slices.ContainsFunc(errnos, func(e syscall.Errno) bool { return errors.Is(err, e) })
	}
	switch {
	case is(syscall.ECONNREFUSED):
		return refused
	case is(syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ENETDOWN, syscall.EHOSTDOWN):
		return unreachable
	// Without a free port, TCP fails with EADDRNOTAVAIL and UDP with EAGAIN. ENOSPC is the
	// limit of watched files.
	case is(syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.EADDRINUSE, syscall.EAGAIN,
		syscall.ENOBUFS, syscall.ENOMEM, syscall.ENOSPC):
		return exhausted
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), is(syscall.ETIMEDOUT):
		return timedOut
	}
	return other
}

// unreachableFor returns the ICMP error for a failed dial.
func unreachableFor(reason string) packet.ICMPError {
	if reason == unreachable || reason == timedOut {
		return packet.HostUnreachable
	}
	return packet.PortUnreachable
}
