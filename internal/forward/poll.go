package forward

import "sync"

// poller makes tasks ready when their sockets become readable or writable. It is
// edge-triggered: a task that is made ready must read or write until the socket would block. A
// spurious event is harmless.
//
// A poller owns no socket: its user watches a socket after opening it, and forgets it before
// closing it.
type poller struct {
	sched *scheduler
	queue *eventQueue
	done  chan struct{} // closed when no more events are handled

	mu    sync.RWMutex
	tasks []*task // by file descriptor; nil for those that are not watched
}

// newPoller creates a poller and starts its goroutine, which runs until close.
func newPoller(s *scheduler) (*poller, error) {
	queue, err := newEventQueue()
	if err != nil {
		return nil, err
	}
	p := &poller{sched: s, queue: queue, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		queue.run(p.event, p.urgent)
	}()
	return p, nil
}

// The events to watch for. UDP sockets are not watched for writable, since datagrams never
// wait: the kernel would report an event for each datagram that left.
const (
	onlyReadable = false
	alsoWritable = true
)

// watch makes t ready on events of fd, until fd is closed. Events that are pending already are
// reported, too.
func (p *poller) watch(fd int, writable bool, t *task) error {
	p.mu.Lock()
	for fd >= len(p.tasks) {
		p.tasks = append(p.tasks, make([]*task, max(64, len(p.tasks)))...)
	}
	p.tasks[fd] = t
	p.mu.Unlock()
	if err := p.queue.add(fd, writable); err != nil {
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
// once. The task may still run once more, for an event before.
func (p *poller) forget(fd int) {
	p.mu.Lock()
	if fd < len(p.tasks) {
		p.tasks[fd] = nil
	}
	p.mu.Unlock()
}

// urgent notes that a target has sent urgent data.
func (p *poller) urgent(fd int) {
	p.mu.RLock()
	t := p.tasks[fd]
	p.mu.RUnlock()
	if t != nil {
		t.urgent.Store(true)
	}
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

// close stops the events. It returns when no task runs on the poller's goroutine any more.
func (p *poller) close() { p.queue.close(p.done) }
