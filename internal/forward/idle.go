package forward

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A flow counts as busy for a moment after data from the target, and for longer after data from
// the client, whose reply may be due.
const (
	busyAfterAnswer  = 100 * time.Millisecond
	busyAfterRequest = 2 * time.Second
)

// activity records the last time that data of a flow arrived, and from which side: an instant,
// negated for the client.
type activity struct{ last atomic.Int64 }

// at returns the instant of the last data.
func (t *activity) at() int64 {
	last := t.last.Load()
	return max(last, -last)
}

func (t *activity) fromClient() { t.last.Store(-instant(time.Now())) }
func (t *activity) fromTarget() { t.last.Store(instant(time.Now())) }

func (t *activity) busy(now time.Time) bool {
	last := t.last.Load()
	if last < 0 {
		return instant(now)+last < int64(busyAfterRequest)
	}
	return instant(now)-last < int64(busyAfterAnswer)
}

// Busy returns the number of flows that are being opened, have just moved data, or have an
// unanswered request of the last 2 s.
func (f *Forwarder) Busy() (n int) {
	now := time.Now()
	each(&f.tcp.mu, f.tcp.flows, func(fl *tcpFlow, _ struct{}) {
		if fl.stage.Load() != stageForwarding || fl.activity.busy(now) {
			n++
		}
	})
	each(&f.udp.mu, f.udp.flows, func(_ flowKey, fl *udpFlow) {
		if fl.activity.busy(now) {
			n++
		}
	})
	return n
}

// AwaitIdle waits until no flow is busy. It returns false if ctx ends first.
func (f *Forwarder) AwaitIdle(ctx context.Context) bool {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for f.Busy() > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// closeWait bounds how long a cut waits for the tailnet to take its resets.
const closeWait = 2 * time.Second

// closeGrace is the time for the engine to send the last batch that it took: the engine closes
// with the link and drops packets in flight.
const closeGrace = 50 * time.Millisecond

// Cut ends every open flow and returns how many of each protocol there were: TCP flows with a
// reset to both ends, UDP flows silently. New flows are still accepted. Keep calling Receive
// meanwhile, so that the resets reach the clients.
func (f *Forwarder) Cut() (tcp, udp int) {
	tcp, udp = f.tcp.closeAll(), f.udp.closeAll()
	if tcp+udp == 0 {
		return 0, 0
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(closeWait); time.Now().Before(deadline); <-tick.C {
		if f.tcp.aborting() == 0 && f.link.empty() {
			break
		}
	}
	<-time.After(closeGrace)
	return tcp, udp
}

// Dial opens a TCP connection to target as a flow would, with the same checks, and closes it.
func (f *Forwarder) Dial(ctx context.Context, target netip.AddrPort) error {
	if f.cfg.Deny(target) {
		return fmt.Errorf("connecting to %s: %w", target, errForbidden)
	}
	to, err := f.cfg.Resolve("tcp", target)
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", target, err)
	}
	fd, err := connect(unix.SOCK_STREAM, to)
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", target, err)
	}
	socket := os.NewFile(uintptr(fd), "dial")
	defer socket.Close()
	if deadline, ok := ctx.Deadline(); ok {
		socket.SetWriteDeadline(deadline)
	}
	stop := context.AfterFunc(ctx, func() { socket.SetWriteDeadline(time.Now()) })
	defer stop()
	raw, err := socket.SyscallConn()
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", target, err)
	}
	var failure error
	err = raw.Write(func(fd uintptr) bool {
		failure = socketError(int(fd))
		return failure != nil || connected(int(fd))
	})
	switch {
	case failure != nil:
		err = failure
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = unix.ETIMEDOUT
	}
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", target, err)
	}
	return nil
}
