//go:build darwin || freebsd

package forward

import (
	"os"

	"golang.org/x/sys/unix"
)

func newPoller(s *scheduler) (*poller, error) {
	fd, err := unix.Kqueue()
	if err != nil {
		return nil, os.NewSyscallError("kqueue", err)
	}
	unix.CloseOnExec(fd)
	return &poller{sched: s, fd: fd}, nil
}

func (p *poller) add(fd, events int) error {
	changes := make([]unix.Kevent_t, 1, 2)
	unix.SetKevent(&changes[0], fd, unix.EVFILT_READ, unix.EV_ADD|unix.EV_CLEAR)
	if events&writable != 0 {
		changes = changes[:2]
		unix.SetKevent(&changes[1], fd, unix.EVFILT_WRITE, unix.EV_ADD|unix.EV_CLEAR)
	}
	_, err := unix.Kevent(p.fd, changes, nil, nil)
	return os.NewSyscallError("kevent", err)
}

// stopIdent identifies the user event that ends run.
const stopIdent = 1

// run handles events until close.
func (p *poller) run() {
	events := make([]unix.Kevent_t, 256)
	for {
		n, err := unix.Kevent(p.fd, nil, events, nil)
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
			p.event(int(e.Ident), n == 1)
		}
	}
}

func (p *poller) close(done <-chan struct{}) {
	changes := make([]unix.Kevent_t, 1)
	unix.SetKevent(&changes[0], stopIdent, unix.EVFILT_USER, unix.EV_ADD|unix.EV_CLEAR)
	changes[0].Fflags = unix.NOTE_TRIGGER
	if _, err := unix.Kevent(p.fd, changes, nil, nil); err == nil {
		<-done
	}
	unix.Close(p.fd)
}
