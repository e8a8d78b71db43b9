//go:build darwin || freebsd

package forward

import (
	"os"

	"golang.org/x/sys/unix"
)

// eventQueue is the kernel's queue of events of sockets: kqueue here, epoll on Linux.
type eventQueue struct{ fd int }

func newEventQueue() (*eventQueue, error) {
	fd, err := unix.Kqueue()
	if err != nil {
		return nil, os.NewSyscallError("kqueue", err)
	}
	unix.CloseOnExec(fd)
	return &eventQueue{fd}, nil
}

// add reports events of fd, once for each change, until fd is closed.
func (q *eventQueue) add(fd int, writable bool) error {
	changes := make([]unix.Kevent_t, 1, 2)
	unix.SetKevent(&changes[0], fd, unix.EVFILT_READ, unix.EV_ADD|unix.EV_CLEAR)
	if writable {
		changes = changes[:2]
		unix.SetKevent(&changes[1], fd, unix.EVFILT_WRITE, unix.EV_ADD|unix.EV_CLEAR)
	}
	_, err := unix.Kevent(q.fd, changes, nil, nil)
	return os.NewSyscallError("kevent", err)
}

// stopIdent identifies the user event that ends run.
const stopIdent = 1

// run calls event for each event until close; alone is false for one of several. These systems
// report no urgent data.
func (q *eventQueue) run(event func(fd int, alone bool), _ func(fd int)) {
	events := make([]unix.Kevent_t, 256)
	for {
		n, err := unix.Kevent(q.fd, nil, events, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return
		}
		for _, e := range events[:n] {
			if e.Filter == unix.EVFILT_USER {
				return
			}
			event(int(e.Ident), n == 1)
		}
	}
}

// close ends run, and waits for it.
func (q *eventQueue) close(done <-chan struct{}) {
	changes := make([]unix.Kevent_t, 1)
	unix.SetKevent(&changes[0], stopIdent, unix.EVFILT_USER, unix.EV_ADD|unix.EV_CLEAR)
	changes[0].Fflags = unix.NOTE_TRIGGER
	if _, err := unix.Kevent(q.fd, changes, nil, nil); err == nil {
		<-done
	}
	unix.Close(q.fd)
}
