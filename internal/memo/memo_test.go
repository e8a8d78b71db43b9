package memo

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// failing returns a look-up that fails the first time, and counts its calls.
func failing(calls *int) func(context.Context) (int, error) {
	return func(context.Context) (int, error) {
		*calls++
		if *calls == 1 {
			return 0, errors.New("not yet")
		}
		return *calls, nil
	}
}

func TestFailures(t *testing.T) {
	var again, once int
	a, b := New(failing(&again)), Once(failing(&once))
	for i := range 3 {
		_, errA := a.Get(t.Context())
		_, errB := b.Get(t.Context())
		if (errA != nil) != (i == 0) || errB == nil {
			t.Errorf("call %d: %v, %v", i, errA, errB)
		}
	}
	if again != 2 || once != 1 {
		t.Errorf("looked up %d and %d times, want 2 and 1", again, once)
	}
	if v, known := a.Cached(); v != 2 || !known {
		t.Errorf("known: %v, %v", v, known)
	}
	if _, known := b.Cached(); known {
		t.Error("a failure is known as a value")
	}
}

func TestConcurrentCallersLookUpOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		m := New(func(context.Context) (int, error) {
			calls++
			time.Sleep(time.Minute)
			return 7, nil
		})
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if v, err := m.Get(t.Context()); v != 7 || err != nil {
					t.Errorf("got %v, %v", v, err)
				}
			})
		}
		synctest.Wait()
		hasty, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := m.Get(hasty); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the hasty caller got %v", err)
		}
		wg.Wait()
		if calls != 1 {
			t.Errorf("looked up %d times", calls)
		}
	})
}
