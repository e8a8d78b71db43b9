package forward

import (
	"sync/atomic"
	"time"
)

// A target that disappears while it has yet to acknowledge data sends nothing that could end
// its flow, and keep-alives are not sent meanwhile. Linux gives up after some 15 minutes, or
// after TCP_USER_TIMEOUT, which would also end flows to a target that answers window probes and
// only takes no data. So each flow with unacknowledged data is checked for the age of the
// target's last acknowledgement.

// silenceCheck holds the times of these checks.
type silenceCheck struct {
	every time.Duration // between two checks of a flow
	limit time.Duration // how long a target may acknowledge nothing while data waits for it
	last  time.Time     // used by sweep only
}

// newSilenceCheck allows a target the same time as if keep-alives were sent to it.
func newSilenceCheck(keepAlive time.Duration) silenceCheck {
	return silenceCheck{every: keepAliveInterval, limit: keepAlive + keepAliveCount*keepAliveInterval}
}

// due reports, once in every interval, that the flows are to be checked.
func (s *silenceCheck) due(now time.Time) bool {
	if now.Sub(s.last) < s.every {
		return false
	}
	s.last = now
	return true
}

// targetSilent reports whether a flow's target has acknowledged nothing for limit while data waits
// for it. If it has acknowledged everything, that is recorded in delivered. It runs in the flow's
// task, which owns the socket.
func targetSilent(r *record, fd int, delivered *atomic.Int64, limit time.Duration) bool {
	sent := r.up.bytes.Load()
	waiting, silent := acknowledges(fd, limit)
	if !waiting {
		delivered.Store(sent)
	}
	return silent
}
