package forward

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestTaskRunsAfterEachEvent: no event is lost, and no task runs on two workers at once.
func TestTaskRunsAfterEachEvent(t *testing.T) {
	s := newScheduler(4)
	defer s.close()
	const tasks, events = 50, 2000
	var seen [tasks]atomic.Int64 // the last event before a run of the task
	var posted [tasks]atomic.Int64
	all := make([]*task, tasks)
	for i := range all {
		var running atomic.Int32
		all[i] = &task{step: func() {
			if running.Add(1) != 1 {
				t.Error("a task ran on two workers at once")
			}
			seen[i].Store(posted[i].Load())
			running.Add(-1)
		}}
	}
	var posters sync.WaitGroup
	for i := range all {
		posters.Go(func() {
			for range events {
				posted[i].Add(1)
				s.ready(all[i])
			}
		})
	}
	posters.Wait()
	for i := range all {
		waitFor(t, "the task to run after the last event", func() bool { return seen[i].Load() == events })
	}
}

func TestSchedulerCloses(t *testing.T) {
	s := newScheduler(2)
	var ran atomic.Int32
	tk := &task{step: func() { ran.Add(1) }}
	s.ready(tk)
	waitFor(t, "the task to run", func() bool { return ran.Load() == 1 })
	closed := make(chan struct{})
	go func() { s.close(); close(closed) }()
	select {
	case <-closed:
	case <-time.After(patience):
		t.Fatal("close did not return")
	}
	s.ready(tk)
	if ran.Load() != 1 {
		t.Error("a closed scheduler ran a task")
	}
}
