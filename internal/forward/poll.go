package forward

import (
	"os"
	"sync"
)

// poller tells tasks that their sockets may be read or written again. It is
// edge-triggered: a task that is told must go on until the socket would block.
// Being told too often is harmless.
type poller struct {
	sched *scheduler
	fd    int      // of the system's event queue
	queue *os.File // the same, on Linux

	mu    sync.RWMutex
	tasks []*task // by file descriptor
}

// What of a socket is watched. A datagram is sent or lost, never waited for; to be
// told that each has left would be an event for every one.
const (
	readable = 1 << iota
	writable
)

// watch makes events of fd ready t, until the fd is closed.
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

// pass makes events of fd, which is watched, ready another task.
func (p *poller) reassign(fd int, t *task) {
	p.mu.Lock()
	p.tasks[fd] = t
	p.mu.Unlock()
}

// forget must come before the fd is closed: its number may be another's at once.
func (p *poller) forget(fd int) {
	p.mu.Lock()
	if fd < len(p.tasks) {
		p.tasks[fd] = nil
	}
	p.mu.Unlock()
}

// event passes an event of fd on. A lone one is worked on right here: on a quiet
// router most are, and to wake a worker costs more than most of their work.
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
