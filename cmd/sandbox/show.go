package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// show prints the story, a line per step. Its methods may be called from any
// goroutine.
type show struct {
	start  time.Time
	colour bool

	mu  sync.Mutex
	out io.Writer
}

func newShow(out io.Writer, colour bool) *show {
	return &show{start: time.Now(), out: out, colour: colour}
}

// wantsColour is so on a terminal whose user has nothing against it; see
// https://no-color.org.
func wantsColour(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 &&
		os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// ANSI's codes for the colours of text.
const (
	red   = "31"
	green = "32"
	dim   = "2"
)

func (s *show) paint(code, text string) string {
	if !s.colour {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// stepError is what stopped the story.
type stepError struct {
	step string
	err  error
}

func (e *stepError) Error() string { return e.step + ": " + e.err.Error() }
func (e *stepError) Unwrap() error { return e.err }

// step does something that the user should see. The first line that it returns
// is printed beside its name, the others below.
func (s *show) step(ctx context.Context, name string, do func(context.Context) ([]string, error)) error {
	lines, err := do(ctx)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = fmt.Errorf("%w: %w", cause, err)
		}
		return &stepError{name, err}
	}
	s.line(s.paint(green, "✓"), name, lines...)
	return nil
}

// line is one step: mark, time since the start, name, and what came of it.
func (s *show) line(mark, name string, lines ...string) {
	const margin = 27 // columns before what came of it
	text := strings.Join(lines, "\n"+strings.Repeat(" ", margin))
	since := fmt.Sprintf("%6.2fs", time.Since(s.start).Seconds())
	s.print("  %s %s  %-13s %s\n", mark, s.paint(dim, since), name, text)
}

// print writes like [fmt.Fprintf].
func (s *show) print(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.out, format, args...)
}

// logLine shows what the router says.
func (s *show) logLine(line string) {
	s.print("      %s\n", s.paint(dim, "│ "+line))
}

// failure ends the story: the step, what was awaited, what the router says of
// itself, and the end of its log.
func (s *show) failure(failed *stepError, reasons, log []string) {
	s.line(s.paint(red, "✗"), failed.step, failed.err.Error())
	for _, r := range reasons {
		s.print("\nThe router says: %s\n", r)
	}
	if len(log) > 0 {
		s.print("\nThe end of the router's log:\n")
	}
	for _, line := range log {
		s.logLine(line)
	}
}
