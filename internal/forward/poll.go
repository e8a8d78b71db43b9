package forward

import "sync"

// poller tells tasks that their sockets may be read or written again. It is
// edge-triggered: a task that is told must go on until the socket would block.
// Being told too often is harmless.
type poller struct {
	sched *scheduler
	fd    int // of the system's event queue

	mu    sync.RWMutex
	tasks []*task // by file descriptor
}

// watch makes events of fd ready t, until the fd is closed.
func (p *poller) watch(fd int, t *task) error {
	p.mu.Lock()
	for fd >= len(p.tasks) {
		p.tasks = append(p.tasks, make([]*task, max(64, len(p.tasks)))...)
	}
	p.tasks[fd] = t
	p.mu.Unlock()
	if err := p.add(fd); err != nil {
		p.forget(fd)
		return err
	}
	return nil
}

// forget must come before the fd is closed: its number may be another's at once.
func (p *poller) forget(fd int) {
	p.mu.Lock()
	if fd < len(p.tasks) {
		p.tasks[fd] = nil
	}
	p.mu.Unlock()
}

func (p *poller) event(fd int) {
	p.mu.RLock()
	t := p.tasks[fd]
	p.mu.RUnlock()
	if t != nil {
		p.sched.ready(t)
	}
}
