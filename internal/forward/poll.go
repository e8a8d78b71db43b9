package forward

import (
	"os"
	"sync"
)

// poller makes tasks ready when their sockets become readable or writable. It is
// edge-triggered: a task that is made ready must read or write until the socket would block. A
// spurious event is harmless.
type poller struct {
	sched *scheduler
	fd    int      // the epoll or kqueue descriptor
	queue *os.File // fd as a file, on Linux

	mu    sync.RWMutex
	tasks []*task // by file descriptor
}

// The events to watch for. UDP sockets are not watched for writable, since datagrams never
// wait: the kernel would report an event for each datagram that left.
const (
	readable = 1 << iota
	writable
)

// watch makes t ready on events of fd, until fd is closed.
func (p *poller) watch(fd, events int, t *task) error {
	p.mu.Lock()
	for fd >= len(p.tasks) {
		p.tasks = append(p.tasks, make([]*task, max(64, len(p.tasks)))...)
	}
	p.tasks[fd] = t
	p.mu.Unlock()
	if err := p.add(fd, events); err != nil {
		p.forget(fd)
		return err
	}
	return nil
}

// reassign makes events of fd, which is watched already, ready t instead.
func (p *poller) reassign(fd int, t *task) {
	p.mu.Lock()
	p.tasks[fd] = t
	p.mu.Unlock()
}

// forget stops events of fd. Call it before fd is closed, because its number may be reused at
// once.
func (p *poller) forget(fd int) {
	p.mu.Lock()
	if fd < len(p.tasks) {
		p.tasks[fd] = nil
	}
	p.mu.Unlock()
}

// event makes the task of fd ready. A single event is handled on the calling goroutine: on a
// lightly loaded router most events are single, and waking a worker costs more than handling
// most of them.
func (p *poller) event(fd int, alone bool) {
	p.mu.RLock()
	t := p.tasks[fd]
	p.mu.RUnlock()
	switch {
	case t == nil:
	case alone:
		p.sched.runInline(t)
	default:
		p.sched.ready(t)
	}
}
