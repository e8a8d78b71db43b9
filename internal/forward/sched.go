package forward

import (
	"sync"
	"sync/atomic"
)

// A task is work that can be due: a flow that can move bytes. Any event may make
// it ready, from any goroutine; it runs on one worker at a time, and once more
// if an event came while it ran. Nothing waits in a goroutine of its own.
type task struct {
	step  func() // never blocks for long
	state atomic.Int32
	next  *task // in the scheduler's queue
}

const (
	taskIdle int32 = iota
	taskQueued
	taskRunning
	taskRerun // running, and ready anew
)

// scheduler runs tasks on a fixed number of workers, first ready first served.
type scheduler struct {
	mu         sync.Mutex
	work       sync.Cond
	head, tail *task
	closed     bool
	workers    sync.WaitGroup
}

func newScheduler(workers int) *scheduler {
	s := &scheduler{}
	s.work.L = &s.mu
	for range workers {
		s.workers.Go(s.run)
	}
	return s
}

// ready makes t due.
func (s *scheduler) ready(t *task) {
	for {
		switch state := t.state.Load(); state {
		case taskIdle:
			if t.state.CompareAndSwap(taskIdle, taskQueued) {
				s.push(t)
				return
			}
		case taskRunning:
			if t.state.CompareAndSwap(taskRunning, taskRerun) {
				return
			}
		default:
			return // due already
		}
	}
}

// begin takes t, whose owner sets it up, so that events have to wait for done.
func (t *task) begin() { t.state.Store(taskRunning) }

// done ends a run of t, and makes it due if an event came meanwhile.
func (s *scheduler) done(t *task) {
	if !t.state.CompareAndSwap(taskRunning, taskIdle) {
		t.state.Store(taskQueued)
		s.push(t)
	}
}

// now runs t at once where nobody else does: for a caller that has nothing better
// to do, it saves waking a worker.
func (s *scheduler) runInline(t *task) {
	if !t.state.CompareAndSwap(taskIdle, taskRunning) {
		s.ready(t)
		return
	}
	t.step()
	s.done(t)
}

func (s *scheduler) push(t *task) {
	s.mu.Lock()
	if s.tail == nil {
		s.head = t
	} else {
		s.tail.next = t
	}
	s.tail = t
	s.mu.Unlock()
	s.work.Signal()
}

func (s *scheduler) pop() *task {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.head == nil && !s.closed {
		s.work.Wait()
	}
	if s.closed {
		return nil
	}
	t := s.head
	s.head, t.next = t.next, nil
	if s.head == nil {
		s.tail = nil
	}
	return t
}

func (s *scheduler) run() {
	for t := s.pop(); t != nil; t = s.pop() {
		t.state.Store(taskRunning)
		t.step()
		s.done(t)
	}
}

// close ends the workers after the task that each is at.
func (s *scheduler) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.work.Broadcast()
	s.workers.Wait()
}
