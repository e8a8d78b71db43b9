// Package eventlog is the router's event log: a layer between a logger and its output that
// suppresses repeated lines, keeps the last events for the status page, and never waits for the
// output.
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

// repeatEvery is how long lines with the cause of an earlier line are suppressed. Then the last
// of them is written, with the number of suppressed lines, so that the log always ends with the
// current state.
const repeatEvery = time.Minute

// maxEvents is the number of events that are kept.
const maxEvents = 50

// maxCauses bounds the causes of the last repeatEvery that are known. With more, which a loop
// cannot produce, lines are written without suppression.
const maxCauses = 4096

// Event is a log line at level info or above.
type Event struct {
	Time    time.Time
	Level   slog.Level
	Message string
	Detail  []string // name=value
}

// Log is the event log. It is shared by all handlers made from it.
type Log struct {
	next  slog.Handler
	plain slog.Handler
	queue *Queue // nil if next writes directly

	mu     sync.Mutex        // guards the fields below; not locked while a handler runs
	events []Event           // a ring buffer once it has maxEvents
	first  int               // index of the oldest event
	causes map[string]*cause // of lines written less than repeatEvery ago
}

// cause counts the lines suppressed since one with the same cause was written.
type cause struct {
	suppressed int         // number of lines
	last       slog.Record // the newest of them
	next       slog.Handler
}

// New returns an event log that writes to next and waits for it.
func New(next slog.Handler) *Log {
	return &Log{next: next, plain: next, causes: map[string]*cause{}}
}

// Open returns an event log that writes to out through a [Queue]; format creates the handlers.
// Debug lines and those of [Log.Plain] have low priority in the queue.
func Open(out io.Writer, format func(io.Writer) slog.Handler) *Log {
	l := &Log{causes: map[string]*cause{}}
	l.queue = NewQueue(out, func(n uint64) {
		slog.New(l.Handler()).Warn("log lines dropped: the output does not keep up", "lines", n, "total", l.queue.Dropped())
	})
	l.plain = format(l.queue.Low())
	l.next = byLevel{high: format(l.queue), low: l.plain}
	return l
}

// Dropped returns the number of lines that were lost because the output was too slow.
func (l *Log) Dropped() uint64 {
	if l.queue == nil {
		return 0
	}
	return l.queue.Dropped()
}

// Flush waits until all lines are written, but no longer than timeout.
func (l *Log) Flush(timeout time.Duration) {
	if l.queue != nil {
		l.queue.Flush(timeout)
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

// Handler returns the handler for the router's own log.
func (l *Log) Handler() slog.Handler { return handler{log: l, next: l.next} }

// Plain returns a handler that neither suppresses repeated lines nor keeps events; it is for
// flow records. Its Handle returns [ErrDropped] for a record that the output is too slow to
// take.
func (l *Log) Plain() slog.Handler { return l.plain }

// Lines returns a writer for lines that have a format of their own. Each Write is one line of
// the output, whole and between the lines of the log. It does not block, and returns
// [ErrDropped] for a line that the output is too slow to take. Without a queue it discards them.
func (l *Log) Lines() io.Writer {
	if l.queue == nil {
		return io.Discard
	}
	return l.queue
}

// Events returns the last events, the newest first.
func (l *Log) Events() []Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := append(slices.Clone(l.events[l.first:]), l.events[:l.first]...)
	slices.Reverse(out)
	return out
}

type handler struct {
	log    *Log
	next   slog.Handler
	prefix string   // of attribute names, from groups
	attrs  []string // name=value
	cause  []string // the attributes that distinguish causes
}

func (h handler) Enabled(ctx context.Context, l slog.Level) bool { return h.next.Enabled(ctx, l) }

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelInfo {
		return h.next.Handle(ctx, r)
	}
	detail, same := slices.Clone(h.attrs), slices.Clone(h.cause)
	r.Attrs(func(a slog.Attr) bool {
		describe(&detail, &same, h.prefix, a)
		return true
	})
	if h.log.suppress(h.next, r, r.Level.String()+" "+r.Message+" "+strings.Join(same, " ")) {
		return nil
	}
	h.log.record(Event{Time: r.Time, Level: r.Level, Message: r.Message, Detail: detail})
	return h.next.Handle(ctx, r)
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	h.next = h.next.WithAttrs(attrs)
	h.attrs, h.cause = slices.Clone(h.attrs), slices.Clone(h.cause)
	for _, a := range attrs {
		describe(&h.attrs, &h.cause, h.prefix, a)
	}
	return h
}

func (h handler) WithGroup(name string) slog.Handler {
	h.next = h.next.WithGroup(name)
	h.prefix += name + "."
	return h
}

// suppress reports whether a line with this cause was written less than repeatEvery ago. It
// counts and keeps r in that case.
func (l *Log) suppress(next slog.Handler, r slog.Record, key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.causes[key]; c != nil {
		c.suppressed++
		c.last, c.next = r.Clone(), next
		return true
	}
	if len(l.causes) < maxCauses {
		l.causes[key] = &cause{}
		time.AfterFunc(repeatEvery, func() { l.summarise(key) })
	}
	return false
}

// summarise writes the last suppressed line, with their number, and suppresses further ones for
// another repeatEvery.
func (l *Log) summarise(key string) {
	l.mu.Lock()
	c := l.causes[key]
	if c.suppressed == 0 {
		delete(l.causes, key)
		l.mu.Unlock()
		return
	}
	l.causes[key] = &cause{}
	time.AfterFunc(repeatEvery, func() { l.summarise(key) })
	l.mu.Unlock()

	r := c.last.Clone()
	r.AddAttrs(slog.Int("repeated", c.suppressed))
	var detail []string
	r.Attrs(func(a slog.Attr) bool {
		describe(&detail, new([]string), "", a)
		return true
	})
	l.record(Event{Time: r.Time, Level: r.Level, Message: r.Message, Detail: detail})
	c.next.Handle(context.Background(), r)
}

func (l *Log) record(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.events) < maxEvents {
		l.events = append(l.events, e)
		return
	}
	l.events[l.first] = e
	l.first = (l.first + 1) % maxEvents
}

// describe appends an attribute to all, and to same unless it is a number or a duration, which
// varies between lines with the same cause.
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

// varying matches the parts in which errors with the same cause differ: request IDs and ports.
var varying = regexp.MustCompile(`\b(?:[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}|[0-9A-Za-z]{16,})\b|:[0-9]{4,5}\b`)
