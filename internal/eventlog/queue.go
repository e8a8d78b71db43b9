package eventlog

import (
	"errors"
	"io"
	"sync"
	"time"
)

// Bounds of the queue. A line of the router has 100 to 500 bytes, so that a minute of a busy
// log fits.
const (
	queueBytes = 1 << 20
	queueLines = 8192
	// lowShare divides both bounds for lines of low priority: a flood of them must not
	// displace the lines that an operator has to read.
	lowShare = 2
)

// reportEvery is the shortest interval between reports of dropped lines.
const reportEvery = 10 * time.Second

// ErrDropped is returned for a line that the output is too slow to take.
var ErrDropped = errors.New("log line dropped: the output does not keep up")

// Queue decouples logging from an output that may block: a pipe without a reader, a stopped
// terminal, a slow disk. Write copies the line and returns; one goroutine writes to the output.
// Lines that do not fit are dropped and counted.
type Queue struct {
	out io.Writer
	// report is called with the number of dropped lines once lines are written again. No
	// lock is held.
	report func(n uint64)

	mu       sync.Mutex // guards the fields below; never locked during a write to out
	lines    [][]byte
	bytes    int
	writing  bool // a line was taken from lines and is not written yet
	closed   bool
	dropped  uint64
	reported uint64
	idle     chan struct{} // closed while there are no lines; Write replaces it
	work     chan struct{} // holds one token while there may be lines
}

// NewQueue returns a queue in front of out, and starts its goroutine. report is called at most
// once every 10 s. [Queue.Close] ends the goroutine, unless a write to out never returns.
func NewQueue(out io.Writer, report func(dropped uint64)) *Queue {
	q := &Queue{out: out, report: report, idle: make(chan struct{}), work: make(chan struct{}, 1)}
	close(q.idle)
	go q.run()
	return q
}

// Write implements [io.Writer]. It never blocks, and returns [ErrDropped] if the
// queue is full.
func (q *Queue) Write(line []byte) (int, error) { return q.add(line, 1) }

// Low returns a writer for lines of low priority, which leaves part of the queue
// to the others.
func (q *Queue) Low() io.Writer { return low{q} }

type low struct{ q *Queue }

func (l low) Write(line []byte) (int, error) { return l.q.add(line, lowShare) }

func (q *Queue) add(line []byte, share int) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || len(q.lines) >= queueLines/share || q.bytes+len(line) > queueBytes/share {
		q.dropped++
		return 0, ErrDropped
	}
	if len(q.lines) == 0 && !q.writing {
		q.idle = make(chan struct{})
	}
	q.lines = append(q.lines, append([]byte(nil), line...))
	q.bytes += len(line)
	select {
	case q.work <- struct{}{}:
	default:
	}
	return len(line), nil
}

// Dropped returns the number of lines dropped so far.
func (q *Queue) Dropped() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.dropped
}

// Flush waits until all lines are written, but no longer than timeout; it reports whether they
// are.
func (q *Queue) Flush(timeout time.Duration) bool {
	q.mu.Lock()
	idle := q.idle
	q.mu.Unlock()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-idle:
		return true
	case <-timer.C:
		return false
	}
}

// run writes lines until the queue is closed.
func (q *Queue) run() {
	var lastReport time.Time
	var due <-chan time.Time // set while a report is delayed
	for {
		select {
		case _, open := <-q.work:
			if !open {
				return
			}
		case <-due:
		}
		due = nil
		for {
			line, ok := q.take()
			if !ok {
				break
			}
			_, err := q.out.Write(line)
			q.wrote(err)
		}
		wait := reportEvery - time.Since(lastReport)
		if lastReport.IsZero() {
			wait = 0
		}
		switch lost := q.lost(wait <= 0); {
		case lost == 0:
		case wait > 0:
			due = time.After(wait)
		default:
			lastReport = time.Now()
			q.report(lost)
		}
	}
}

func (q *Queue) take() ([]byte, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.lines) == 0 {
		q.lines = nil // frees the memory of a burst
		return nil, false
	}
	line := q.lines[0]
	q.lines[0] = nil
	q.lines = q.lines[1:]
	q.bytes -= len(line)
	q.writing = true
	return line, true
}

func (q *Queue) wrote(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.writing = false
	if err != nil {
		q.dropped++
	}
	if len(q.lines) == 0 {
		close(q.idle)
	}
}

// lost returns the number of lines dropped since the last report. With reported set, it counts
// them as reported.
func (q *Queue) lost(reported bool) uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := q.dropped - q.reported
	if reported {
		q.reported = q.dropped
	}
	return n
}

// Close waits until all lines are written, but no longer than timeout, and ends the queue's
// goroutine. Later lines are dropped.
func (q *Queue) Close(timeout time.Duration) bool {
	done := q.Flush(timeout)
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.closed = true
		close(q.work)
	}
	return done
}
