package forward

import (
	"os"

	"golang.org/x/sys/unix"
)

// eventQueue is the kernel's queue of events of sockets: epoll here, kqueue elsewhere.
type eventQueue struct {
	fd   int      // owned by file, and closed with it
	file *os.File // known to Go's poller
}

// newEventQueue returns an empty queue. Go's poller needs its descriptor to be non-blocking.
func newEventQueue() (*eventQueue, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	return &eventQueue{fd: fd, file: os.NewFile(uintptr(fd), "epoll")}, nil
}

// add reports events of fd, once for each change, until fd is closed.
func (q *eventQueue) add(fd int, writable bool) error {
	mask := uint32(unix.EPOLLIN | unix.EPOLLPRI | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff)
	if writable {
		mask |= unix.EPOLLOUT
	}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(q.fd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: mask, Fd: int32(fd)}))
}

// run calls event for each event until close; alone is false for one of several. It calls urgent
// before, if there is urgent data. The event queue is itself registered with Go's poller, so
// that waiting blocks no thread: a thread asleep in epoll_wait would have to be woken, and
// acquire a processor, for each event.
func (q *eventQueue) run(event func(fd int, alone bool), urgent func(fd int)) {
	events := make([]unix.EpollEvent, 256)
	queue, err := q.file.SyscallConn()
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
				if events[i].Events&unix.EPOLLPRI != 0 {
					urgent(int(events[i].Fd))
				}
				event(int(events[i].Fd), n == 1)
			}
			if n < len(events) && err == nil {
				return false
			}
		}
	})
}

// close ends run, and waits for it.
func (q *eventQueue) close(done <-chan struct{}) {
	q.file.Close()
	<-done
}
