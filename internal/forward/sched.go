package forward

import (
	"sync"
	"sync/atomic"
)

// task is work that can become due: a flow that can move bytes. Any goroutine may make it
// ready. It runs on one worker at a time, and runs again if it became ready meanwhile. No task
// has a waiting goroutine.
type task struct {
	step  func() // must not block for long
	state atomic.Int32
	next  *task // in the scheduler's queue
}

// receiveBudget is the number of packets that a task may receive before other tasks get a turn.
const receiveBudget = 32

const (
	taskIdle int32 = iota
	taskQueued
	taskRunning
	taskRerun // running, and ready again
)

// scheduler runs tasks on a fixed number of workers, in the order in which they became ready.
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

// ready queues t, unless it is queued already.
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
			return // queued already
		}
	}
}

// begin marks t as running while its owner sets it up: events are deferred until done.
func (t *task) begin() { t.state.Store(taskRunning) }

// done ends a run of t, and queues it if it became ready meanwhile.
func (s *scheduler) done(t *task) {
	if !t.state.CompareAndSwap(taskRunning, taskIdle) {
		t.state.Store(taskQueued)
		s.push(t)
	}
}

// runInline runs t on the caller's goroutine unless a worker already has it; it saves waking a
// worker.
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

// close stops the workers after their current tasks.
func (s *scheduler) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.work.Broadcast()
	s.workers.Wait()
}
