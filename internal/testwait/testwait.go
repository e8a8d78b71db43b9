// Package testwait waits in tests for conditions that depend on other goroutines, processes or
// machines.
//
// All waits share one deadline. It is far above the time that any condition takes on an idle
// machine, so that it only decides whether a test fails, never whether it passes: a test about
// a duration measures it and compares it with its own bound.
package testwait

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"
)

// limit bounds one wait on a developer's machine. The slowest condition, the start of a browser
// or container, takes 5 s there.
const limit = 60 * time.Second

// The pause between two checks doubles from minPause to maxPause. After a slow check, such as
// one that starts a program, the pause is as long as the check, up to maxSlowPause: waiting
// takes at most about half of a processor.
const (
	minPause     = time.Millisecond
	maxPause     = 20 * time.Millisecond
	maxSlowPause = 200 * time.Millisecond
)

// Limit returns the longest time that one wait may take: a minute, twice that with CI=true,
// where other jobs share the machine, and twice that again under the race detector.
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

// Until calls check until it returns nil. It fails the test with the last error after [Limit],
// or at once if check returns an error of [Stop]. The message is "waiting for CONDITION:
// ERROR", so condition is a noun phrase such as "the router to be ready".
func Until(tb testing.TB, condition string, check func() error) {
	tb.Helper()
	// Not the test's own context, since cleanup functions may wait, too.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), Limit())
	defer cancel()
	err := For(ctx, condition, func(context.Context) error { return check() })
	if err != nil && ctx.Err() != nil {
		tb.Fatalf("%v (gave up after %v)", err, Limit())
	}
	if err != nil {
		tb.Fatal(err)
	}
}

// Receive returns the next value of c, or its zero value if c is closed. It fails the test
// after [Limit].
func Receive[T any](tb testing.TB, condition string, c <-chan T) T {
	tb.Helper()
	timer := time.NewTimer(Limit())
	defer timer.Stop()
	select {
	case v := <-c:
		return v
	case <-timer.C:
		tb.Fatalf("waiting for %s (gave up after %v)", condition, Limit())
		panic("unreachable")
	}
}

// Context returns a context that ends with the test, or after [Limit].
func Context(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(tb.Context(), Limit())
	tb.Cleanup(cancel)
	return ctx
}

// For is [Until] for programs that are not tests. It returns the last error if ctx ends first,
// or if check returns an error of [Stop].
func For(ctx context.Context, condition string, check func(context.Context) error) error {
	var last error
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		start := time.Now()
		err := check(ctx)
		if err == nil {
			return nil
		}
		if end, ok := errors.AsType[stop](err); ok {
			return fmt.Errorf("waiting for %s: %w", condition, end.error)
		}
		// If ctx interrupted the check, its error hides the reason.
		if last == nil || ctx.Err() == nil {
			last = err
		}
		timer := time.NewTimer(max(pause, min(time.Since(start), maxSlowPause)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("waiting for %s: %w", condition, last)
		}
	}
}

// Stop returns an error for a check that can no longer succeed, such as one of a program that
// has exited.
func Stop(err error) error { return stop{err} }

type stop struct{ error }

func (s stop) Unwrap() error { return s.error }
