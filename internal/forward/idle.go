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

// A flow is busy for a moment after the target spoke, and for longer after the client
// did: it may wait for an answer.
const (
	busyAfterAnswer  = 100 * time.Millisecond
	busyAfterRequest = 2 * time.Second
)

// turn is who of a flow spoke last, and when: an instant, negative for the client.
type activity struct{ last atomic.Int64 }

// at is when that was.
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

// Busy counts the flows that are in the middle of something: being opened, moving bytes,
// or waiting for the answer to what the client said up to 2 s ago.
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

// AwaitIdle waits for a moment at which no flow is busy, and reports whether it came
// before ctx ended.
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

// closeWait bounds how long a cut waits for its resets to be taken by the tailnet.
const closeWait = 2 * time.Second

// closeGrace lets the tailnet's side send the last batch that it took: the engine ends
// with the link, and drops what is under way.
const closeGrace = 50 * time.Millisecond

// Cut ends every flow that is open, so that both ends see it at once, and reports how
// many there were of each protocol. New ones are still taken. Receive should go on being
// called meanwhile, for the resets to reach their clients.
func (f *Forwarder) Cut() (tcp, udp int) {
	tcp, udp = f.tcp.closeAll(), f.udp.closeAll()
	if tcp+udp == 0 {
		return 0, 0
	}
	for deadline := time.Now().Add(closeWait); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if f.tcp.aborting() == 0 && f.link.empty() {
			break
		}
	}
	time.Sleep(closeGrace)
	return tcp, udp
}

// Dial opens a TCP connection to target as a flow does, by the same rules, and closes it.
func (f *Forwarder) Dial(ctx context.Context, target netip.AddrPort) error {
	if f.cfg.Deny(target) {
		return fmt.Errorf("connecting to %s: it must never be reached", target)
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
