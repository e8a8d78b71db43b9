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
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	return &poller{sched: s, fd: fd, queue: os.NewFile(uintptr(fd), "epoll")}, nil
}

func (p *poller) add(fd, events int) error {
	mask := uint32(unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff)
	if events&writable != 0 {
		mask |= unix.EPOLLOUT
	}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: mask, Fd: int32(fd)}))
}

// run handles events until close. The event queue is itself registered with Go's poller, so
// that waiting blocks no thread: a thread asleep in epoll_wait would have to be woken, and
// acquire a processor, for each event.
func (p *poller) run() {
	events := make([]unix.EpollEvent, 256)
	queue, err := p.queue.SyscallConn()
	if err != nil {
		return
	}
	// A single Read lasts until close. It waits after the function returns false, and
	// events that arrived meanwhile wake it, so that it never waits just to find an empty
	// queue.
	queue.Read(func(fd uintptr) (over bool) {
		for {
			n, err := unix.EpollWait(int(fd), events, 0)
			if err != nil && err != unix.EINTR {
				return true
			}
			for i := range max(n, 0) {
				p.event(int(events[i].Fd), n == 1)
			}
			if n < len(events) && err == nil {
				return false
			}
		}
	})
}

// close ends run.
func (p *poller) close(done <-chan struct{}) {
	p.queue.Close()
	<-done
}
