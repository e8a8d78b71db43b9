package testwait

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestUntil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, calls := time.Now(), 0
		Until(t, "the third second", func() error {
			calls++
			if time.Since(began) < 3*time.Second {
				return errors.New("too early")
			}
			return nil
		})
		if late := time.Since(began) - 3*time.Second; late > maxPause {
			t.Errorf("returned %v after the condition held, more than %v", late, maxPause)
		}
		if maxCalls := 3*int(time.Second/maxPause) + 10; calls > maxCalls {
			t.Errorf("%d checks in 3 s, more than %d", calls, maxCalls)
		}
	})
}

func TestUntilInCleanup(t *testing.T) {
	t.Cleanup(func() {
		again := false
		Until(t, "a second check", func() error {
			if !again {
				again = true
				return errors.New("the first check")
			}
			return nil
		})
	})
}

// TestLimit waits for a check that never succeeds: the failure names the condition, the time
// and the last error.
func TestLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		got := failure(t, func(tb testing.TB) {
			Until(tb, "the router to be ready", func() error {
				calls++
				return fmt.Errorf("not_ready %d", calls)
			})
		})
		want := fmt.Sprintf("waiting for the router to be ready: not_ready %d (gave up after %v)", calls, Limit())
		if got != want {
			t.Errorf("failed with %q, want %q", got, want)
		}
		if got, want := failure(t, func(tb testing.TB) { Receive(tb, "the end", make(chan struct{})) }),
			fmt.Sprintf("waiting for the end (gave up after %v)", Limit()); got != want {
			t.Errorf("failed with %q, want %q", got, want)
		}
	})
}

func TestStop(t *testing.T) {
	ended := errors.New("exit status 1")
	calls := 0
	got := failure(t, func(tb testing.TB) {
		Until(tb, "the router to be ready", func() error {
			calls++
			return fmt.Errorf("asking: %w", Stop(ended))
		})
	})
	if want := "waiting for the router to be ready: exit status 1"; got != want || calls != 1 {
		t.Errorf("failed with %q after %d checks, want %q after one", got, calls, want)
	}
}

// TestLastError: if the context ends during a check, the error of the check before is kept.
func TestLastError(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	refused := errors.New("connection refused")
	calls := 0
	err := For(ctx, "an answer", func(ctx context.Context) error {
		if calls++; calls == 1 {
			return refused
		}
		cancel()
		return ctx.Err()
	})
	if !errors.Is(err, refused) || errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want %v", err, refused)
	}
}

func TestCISetsTheLimit(t *testing.T) {
	t.Setenv("CI", "")
	alone := Limit()
	t.Setenv("CI", "true")
	if Limit() != 2*alone {
		t.Errorf("the limit is %v, with CI=true %v", alone, Limit())
	}
}

func TestReceive(t *testing.T) {
	c := make(chan int, 1)
	c <- 7
	if got := Receive(t, "a number", c); got != 7 {
		t.Errorf("received %d", got)
	}
	close(c)
	if got := Receive(t, "the end", c); got != 0 {
		t.Errorf("received %d from a closed channel", got)
	}
}

// failure returns the message with which f fails its test.
func failure(t *testing.T, f func(testing.TB)) string {
	t.Helper()
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(r)
	}()
	<-done
	if r.text == "" {
		t.Fatal("the test did not fail")
	}
	return r.text
}

// recorder is a test that records its failure.
type recorder struct {
	testing.TB
	text string
}

func (r *recorder) Fatal(args ...any) {
	r.text = strings.TrimSpace(fmt.Sprintln(args...))
	runtime.Goexit()
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.text = fmt.Sprintf(format, args...)
	runtime.Goexit()
}
