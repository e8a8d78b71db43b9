package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"subnetrouter/internal/terminal"
)

// show prints one line per step. Its methods may be called concurrently.
type show struct {
	start  time.Time
	colour bool
	width  int // columns of the terminal; 0 does not wrap

	mu  sync.Mutex
	out io.Writer
}

func newShow(out io.Writer, colour bool, width int) *show {
	return &show{start: time.Now(), out: out, colour: colour, width: width}
}

// ANSI codes of text colours.
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

// stepError is the failure of a step, which ends the run.
type stepError struct {
	step string
	err  error
}

func (e *stepError) Error() string { return e.step + ": " + e.err.Error() }
func (e *stepError) Unwrap() error { return e.err }

// step calls do and prints the lines that it returns: the first one next to the step's
// name, the others below.
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

// line prints a step: its mark, the time since the start, its name and its result.
func (s *show) line(mark, name string, lines ...string) {
	const margin = 27 // columns before the result
	var wrapped []string
	for _, l := range lines {
		for part := range strings.SplitSeq(l, "\n") {
			wrapped = append(wrapped, terminal.Wrap(part, s.width-margin)...)
		}
	}
	text := strings.Join(wrapped, "\n"+strings.Repeat(" ", margin))
	since := fmt.Sprintf("%6.2fs", time.Since(s.start).Seconds())
	s.print("  %s %s  %-13s %s\n", mark, s.paint(dim, since), name, text)
}

// print writes like [fmt.Fprintf].
func (s *show) print(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.out, format, args...)
}

// logLine prints a line of the router's log.
func (s *show) logLine(line string) {
	for _, part := range terminal.Wrap(line, s.width-8) {
		s.print("      %s\n", s.paint(dim, "│ "+part))
	}
}

// failure prints the failed step with its error, the router's readiness reasons and the
// end of its log.
func (s *show) failure(failed *stepError, reasons, log []string) {
	s.line(s.paint(red, "✗"), failed.step, failed.err.Error())
	for _, r := range reasons {
		s.print("\nNot ready: %s\n", r)
	}
	if len(log) > 0 {
		s.print("\nThe end of the router's log:\n")
	}
	for _, line := range log {
		s.logLine(line)
	}
}
