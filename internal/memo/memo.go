// Package memo caches the outcome of a look-up that several callers need.
package memo

import (
	"context"
	"sync/atomic"
)

// Memo makes a look-up at the first call of Get, and caches the outcome. Of concurrent
// callers one looks up and the others wait, each at most until its own context ends.
type Memo[T any] struct {
	look       func(context.Context) (T, error)
	keepErrors bool

	looking chan struct{} // a semaphore of one: full while a caller looks up
	outcome atomic.Pointer[outcome[T]]
}

type outcome[T any] struct {
	value T
	err   error
}

// New returns a Memo that caches the first success: after a failure the next caller looks
// up again.
func New[T any](look func(context.Context) (T, error)) *Memo[T] {
	return &Memo[T]{look: look, looking: make(chan struct{}, 1)}
}

// Once returns a Memo that looks up once and caches a failure, too.
func Once[T any](look func(context.Context) (T, error)) *Memo[T] {
	m := New(look)
	m.keepErrors = true
	return m
}

// Cached returns the cached value, if there is one. It does not look up.
func (m *Memo[T]) Cached() (v T, known bool) {
	if o := m.outcome.Load(); o != nil && o.err == nil {
		return o.value, true
	}
	return v, false
}

// Get returns the cached outcome, or looks up.
func (m *Memo[T]) Get(ctx context.Context) (T, error) {
	if o := m.outcome.Load(); o != nil {
		return o.value, o.err
	}
	select {
	case m.looking <- struct{}{}:
		defer func() { <-m.looking }()
	case <-ctx.Done():
		var zero T
		return zero, ctx.Err()
	}
	if o := m.outcome.Load(); o != nil {
		return o.value, o.err // stored by the caller that looked up before
	}
	v, err := m.look(ctx)
	if err == nil || m.keepErrors {
		m.outcome.Store(&outcome[T]{v, err})
	}
	return v, err
}
