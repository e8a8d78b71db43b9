// Package memo remembers the outcome of a look-up that several callers need.
package memo

import (
	"context"
	"sync/atomic"
)

// Memo looks something up when it is first asked for, and remembers the outcome.
// Of concurrent callers one looks up and the others wait, each no longer than its
// own context lasts.
type Memo[T any] struct {
	look       func(context.Context) (T, error)
	keepErrors bool

	turn    chan struct{} // held by the caller that looks up
	outcome atomic.Pointer[outcome[T]]
}

type outcome[T any] struct {
	value T
	err   error
}

// New returns a Memo that remembers the first success: after a failure the next
// caller looks up again.
func New[T any](look func(context.Context) (T, error)) *Memo[T] {
	return &Memo[T]{look: look, turn: make(chan struct{}, 1)}
}

// Once returns a Memo that looks up once and remembers a failure, too.
func Once[T any](look func(context.Context) (T, error)) *Memo[T] {
	m := New(look)
	m.keepErrors = true
	return m
}

// Known returns the remembered value, if there is one. It does not look up.
func (m *Memo[T]) Known() (v T, known bool) {
	if o := m.outcome.Load(); o != nil && o.err == nil {
		return o.value, true
	}
	return v, false
}

// Get returns the remembered outcome, or looks up.
func (m *Memo[T]) Get(ctx context.Context) (T, error) {
	if o := m.outcome.Load(); o != nil {
		return o.value, o.err
	}
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		var zero T
		return zero, ctx.Err()
	}
	if o := m.outcome.Load(); o != nil {
		return o.value, o.err // stored by the caller that held the turn before
	}
	v, err := m.look(ctx)
	if err == nil || m.keepErrors {
		m.outcome.Store(&outcome[T]{v, err})
	}
	return v, err
}
