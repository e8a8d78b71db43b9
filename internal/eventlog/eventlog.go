// Package eventlog stands between a logger and its output: it holds back lines
// that say the same again, remembers the last ones for the status page, and never
// waits for the output.
package eventlog

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// Quiet is how long after a line another one for the same cause is held back.
// The last one held back is written when the time is over, with how many there
// were, so that the log always ends with how things are.
const Quiet = time.Minute

// kept is how many lines are remembered as events.
const kept = 50

// mostCauses bounds what is remembered for Quiet. Beyond, lines are written
// without asking: a loop cannot make thousands of causes a minute.
const mostCauses = 4096

// Event is a remembered line.
type Event struct {
	Time    time.Time
	Level   slog.Level
	Message string
	Detail  []string // name=value
}

// Log is shared by all handlers made from one [New].
type Log struct {
	next  slog.Handler
	plain slog.Handler
	queue *Queue // nil: next writes at once

	mu     sync.Mutex
	events []Event // a ring once it is full
	first  int     // the oldest, then
	causes map[string]*cause
}

// cause is what was written less than Quiet ago.
type cause struct {
	held int         // lines since
	last slog.Record // of these
	next slog.Handler
}

// New makes a journal that writes to next, and waits for it.
func New(next slog.Handler) *Log {
	return &Log{next: next, plain: next, causes: map[string]*cause{}}
}

// Open makes a journal that writes to out by way of a [Queue]; format makes the
// handlers. Debug lines and those of [Journal.Plain] have low priority in the queue.
func Open(out io.Writer, format func(io.Writer) slog.Handler) *Log {
	j := &Log{causes: map[string]*cause{}}
	j.queue = NewQueue(out, func(n uint64) {
		slog.New(j.Handler()).Warn("log lines dropped: the output does not keep up", "lines", n, "total", j.queue.Dropped())
	})
	j.plain = format(j.queue.Low())
	j.next = byLevel{high: format(j.queue), low: j.plain}
	return j
}

// Dropped returns how many lines were lost because the output was too slow.
func (j *Log) Dropped() uint64 {
	if j.queue == nil {
		return 0
	}
	return j.queue.Dropped()
}

// Flush waits until all lines are written, or for at most patience.
func (j *Log) Flush(patience time.Duration) {
	if j.queue != nil {
		j.queue.Flush(patience)
	}
}

// byLevel sends records below level info to another handler.
type byLevel struct{ high, low slog.Handler }

func (b byLevel) Enabled(ctx context.Context, l slog.Level) bool { return b.high.Enabled(ctx, l) }

func (b byLevel) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelInfo {
		return b.low.Handle(ctx, r)
	}
	return b.high.Handle(ctx, r)
}

func (b byLevel) WithAttrs(attrs []slog.Attr) slog.Handler {
	return byLevel{b.high.WithAttrs(attrs), b.low.WithAttrs(attrs)}
}

func (b byLevel) WithGroup(name string) slog.Handler {
	return byLevel{b.high.WithGroup(name), b.low.WithGroup(name)}
}

// Handler is the handler for what the router says of itself.
func (j *Log) Handler() slog.Handler { return handler{j: j, next: j.next} }

// Plain writes to the same output every line, and remembers none: for records
// of which each is a fact of its own. Handle returns [ErrDropped] for a record that
// the output is too slow to take.
func (j *Log) Plain() slog.Handler { return j.plain }

// Events are the last lines at level info or above, the newest first.
func (j *Log) Events() []Event {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := append(slices.Clone(j.events[j.first:]), j.events[:j.first]...)
	slices.Reverse(out)
	return out
}

type handler struct {
	j      *Log
	next   slog.Handler
	prefix string   // of names, by groups
	attrs  []string // name=value
	same   []string // those that tell causes apart
}

func (h handler) Enabled(ctx context.Context, l slog.Level) bool { return h.next.Enabled(ctx, l) }

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelInfo {
		return h.next.Handle(ctx, r)
	}
	detail, same := slices.Clone(h.attrs), slices.Clone(h.same)
	r.Attrs(func(a slog.Attr) bool {
		describe(&detail, &same, h.prefix, a)
		return true
	})
	if h.j.hold(h.next, r, r.Level.String()+" "+r.Message+" "+strings.Join(same, " ")) {
		return nil
	}
	h.j.remember(Event{Time: r.Time, Level: r.Level, Message: r.Message, Detail: detail})
	return h.next.Handle(ctx, r)
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	h.next = h.next.WithAttrs(attrs)
	h.attrs, h.same = slices.Clone(h.attrs), slices.Clone(h.same)
	for _, a := range attrs {
		describe(&h.attrs, &h.same, h.prefix, a)
	}
	return h
}

func (h handler) WithGroup(name string) slog.Handler {
	h.next = h.next.WithGroup(name)
	h.prefix += name + "."
	return h
}

// hold reports whether a line for this cause was written lately.
func (j *Log) hold(next slog.Handler, r slog.Record, name string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if c := j.causes[name]; c != nil {
		c.held++
		c.last, c.next = r.Clone(), next
		return true
	}
	if len(j.causes) < mostCauses {
		j.causes[name] = &cause{}
		time.AfterFunc(Quiet, func() { j.release(name) })
	}
	return false
}

// release writes what was held back, which starts a new time of quiet.
func (j *Log) release(name string) {
	j.mu.Lock()
	c := j.causes[name]
	if c.held == 0 {
		delete(j.causes, name)
		j.mu.Unlock()
		return
	}
	j.causes[name] = &cause{}
	time.AfterFunc(Quiet, func() { j.release(name) })
	j.mu.Unlock()

	r := c.last.Clone()
	r.AddAttrs(slog.Int("repeated", c.held))
	var detail []string
	r.Attrs(func(a slog.Attr) bool {
		describe(&detail, new([]string), "", a)
		return true
	})
	j.remember(Event{Time: r.Time, Level: r.Level, Message: r.Message, Detail: detail})
	c.next.Handle(context.Background(), r)
}

func (j *Log) remember(e Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.events) < kept {
		j.events = append(j.events, e)
		return
	}
	j.events[j.first] = e
	j.first = (j.first + 1) % kept
}

// describe appends an attribute to all, and to same unless it is a measurement:
// a number or a time is not what a line is about.
func describe(all, same *[]string, prefix string, a slog.Attr) {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, g := range v.Group() {
			describe(all, same, prefix, g)
		}
		return
	}
	text := fmt.Sprint(v.Any())
	*all = append(*all, prefix+a.Key+"="+text)
	if v.Kind() == slog.KindString || v.Kind() == slog.KindAny || v.Kind() == slog.KindBool {
		if _, err := time.ParseDuration(text); err == nil {
			return
		}
		if a.Key == "err" {
			text = varying.ReplaceAllString(text, "#")
		}
		*same = append(*same, prefix+a.Key+"="+text)
	}
}

// varying is what makes two errors of one cause differ: the IDs of requests, and
// ports.
var varying = regexp.MustCompile(`\b(?:[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}|[0-9A-Za-z]{16,})\b|:[0-9]{4,5}\b`)
