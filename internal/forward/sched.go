package forward

import (
	"sync"
	"sync/atomic"
)

// task is work that can become due: a flow that can move bytes. Any goroutine may make it
// ready. It runs on one worker at a time, and runs again if it became ready meanwhile. No task
// has a waiting goroutine.
//
//	        ready           a worker takes it            ready
//	idle ──────────▶ queued ─────────────────▶ running ─────────▶ rerun
//	 ▲                  ▲                       │   ▲                │
//	 └──────────────────│──── the step ends ────┘   │                │
//	                    └──────────────────────────────── it ends ───┘
//	                                                │
//	idle ─────────────── runInline, begin ──────────┘
//
// So step never runs on two goroutines at once, what one run wrote is visible to the next, and
// after each ready a run begins.
type task struct {
	step  func() // set before the first ready; must not block for long
	state atomic.Int32
	// urgent is set before the task becomes ready because its TCP socket received urgent
	// data; the step clears it.
	urgent atomic.Bool
	next   *task // in the scheduler's queue, while queued; guarded by scheduler.mu
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
	mu         sync.Mutex // guards the queue and closed; no task runs while it is held
	work       sync.Cond  // signalled for each task in the queue, and when closed is set
	head, tail *task      // the queue, linked by task.next; both nil if it is empty
	closed     bool
	workers    sync.WaitGroup
}

// newScheduler starts the workers, which run until close.
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

// begin marks t as running while its owner sets it up: events are deferred until done. Call it
// before anything can make t ready.
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

// push appends a task in the state queued, which is thus in the queue once.
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

// pop waits for a task and takes it out of the queue. It returns nil once the scheduler is closed.
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

// run is a worker.
func (s *scheduler) run() {
	for t := s.pop(); t != nil; t = s.pop() {
		t.state.Store(taskRunning)
		t.step()
		s.done(t)
	}
}

// close stops the workers after their current tasks, and waits for them. Queued tasks do not run
// any more.
func (s *scheduler) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.work.Broadcast()
	s.workers.Wait()
}
