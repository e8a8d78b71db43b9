package bootstrap

import (
	"context"
	"sync/atomic"
)

// memo remembers the first success of a look-up. A failure is not remembered:
// the next caller looks again.
type memo[T any] struct {
	turn  chan struct{} // holds the one caller that looks
	value *atomic.Pointer[T]
}

func newMemo[T any]() memo[T] {
	return memo[T]{turn: make(chan struct{}, 1), value: new(atomic.Pointer[T])}
}

func (m memo[T]) known() (v T, known bool) {
	if p := m.value.Load(); p != nil {
		return *p, true
	}
	return v, false
}

func (m memo[T]) get(ctx context.Context, look func(context.Context) (T, error)) (T, error) {
	if v, known := m.known(); known {
		return v, nil
	}
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		var zero T
		return zero, ctx.Err()
	}
	if v, known := m.known(); known {
		return v, nil // by whoever had the turn before
	}
	v, err := look(ctx)
	if err == nil {
		m.value.Store(&v)
	}
	return v, err
}
