// Package testwait waits in tests for conditions that other goroutines, processes
// or machines bring about. It is a test helper.
//
// One deadline serves all waits. It is far above the time that any condition takes
// on an idle machine, so it decides only whether a test fails, never whether it
// passes: a test about a duration measures it, and compares it with its own bound.
package testwait

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"
)

// limit bounds one wait on a developer's machine. The slowest condition, a browser
// or a container that starts, takes 5 s there.
const limit = 60 * time.Second

// The pause between two checks doubles from shortest to longest. A slow check, such
// as one that starts a program, is followed by a pause of its own length up to
// slowest: waiting never takes more than about half of a processor.
const (
	shortest = time.Millisecond
	longest  = 20 * time.Millisecond
	slowest  = 200 * time.Millisecond
)

// Limit returns the longest time that one wait may take: a minute, twice that with
// CI=true, where other jobs share the machine, and twice that again under the race
// detector.
func Limit() time.Duration {
	l := limit
	if os.Getenv("CI") == "true" {
		l *= 2
	}
	if race {
		l *= 2
	}
	return l
}

// Until calls check until it returns nil. It ends the test with the last error if
// that takes longer than [Limit], or at once if check returns an error of [Stop].
// The failure reads "waiting for WHAT: ERROR", so what is a noun phrase such as "the
// router to be ready".
func Until(tb testing.TB, what string, check func() error) {
	tb.Helper()
	// Not the test's own context: a wait may be part of its clean-up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), Limit())
	defer cancel()
	err := For(ctx, what, func(context.Context) error { return check() })
	if err != nil && ctx.Err() != nil {
		tb.Fatalf("%v (gave up after %v)", err, Limit())
	}
	if err != nil {
		tb.Fatal(err)
	}
}

// Receive returns the next value of c, or its zero value if c is closed. It ends the
// test if that takes longer than [Limit].
func Receive[T any](tb testing.TB, what string, c <-chan T) T {
	tb.Helper()
	timer := time.NewTimer(Limit())
	defer timer.Stop()
	select {
	case v := <-c:
		return v
	case <-timer.C:
		tb.Fatalf("waiting for %s (gave up after %v)", what, Limit())
		panic("unreachable")
	}
}

// Context returns a context that ends with the test, or after [Limit].
func Context(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(tb.Context(), Limit())
	tb.Cleanup(cancel)
	return ctx
}

// For calls check until it returns nil, and is [Until] for programs that are no tests.
// It returns the last error if ctx ends first, or if check returns an error of [Stop].
func For(ctx context.Context, what string, check func(context.Context) error) error {
	var last error
	for pause := shortest; ; pause = min(2*pause, longest) {
		asked := time.Now()
		err := check(ctx)
		if err == nil {
			return nil
		}
		var end stop
		if errors.As(err, &end) {
			return fmt.Errorf("waiting for %s: %w", what, end.error)
		}
		// The error of a check that ctx cut short hides the reason.
		if last == nil || ctx.Err() == nil {
			last = err
		}
		timer := time.NewTimer(max(pause, min(time.Since(asked), slowest)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("waiting for %s: %w", what, last)
		}
	}
}

// Stop returns an error for a check that cannot succeed any more, such as one of a
// program that has ended.
func Stop(err error) error { return stop{err} }

type stop struct{ error }

func (s stop) Unwrap() error { return s.error }
