package forward

import (
	"os"

	"golang.org/x/sys/unix"
)

func newPoller(s *scheduler) (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	return &poller{sched: s, fd: fd}, nil
}

func (p *poller) add(fd int) error {
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{
		Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff,
		Fd:     int32(fd),
	}))
}

// run delivers events until close.
func (p *poller) run() {
	events := make([]unix.EpollEvent, 256)
	for {
		n, err := unix.EpollWait(p.fd, events, -1)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return
		}
		for _, e := range events[:n] {
			if e.Fd == stopFD {
				return
			}
			p.event(int(e.Fd))
		}
	}
}

// stopFD marks the event that ends run.
const stopFD = -1

// close ends run: an eventfd that is readable for good.
func (p *poller) close(done <-chan struct{}) {
	stop, err := unix.Eventfd(1, unix.EFD_CLOEXEC)
	if err == nil {
		defer unix.Close(stop)
		err = unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, stop, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: stopFD})
	}
	if err == nil {
		<-done
	}
	unix.Close(p.fd)
}
