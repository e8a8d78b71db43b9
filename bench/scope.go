package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
)

// scope stands in for a test where netnstest wants one: it owns what it is
// told to clean up, and what would fail the test ends the call to try.
type scope struct {
	testing.TB // nil: netnstest calls none but the methods below
	ctx        context.Context

	mu       sync.Mutex
	cleanups []func()
}

func newScope(ctx context.Context) *scope { return &scope{ctx: ctx} }

type failure struct{ error }

func (s *scope) Helper()                        {}
func (s *scope) Context() context.Context       { return s.ctx }
func (s *scope) Fatal(args ...any)              { panic(failure{fmt.Errorf("%s", fmt.Sprint(args...))}) }
func (s *scope) Fatalf(format string, a ...any) { panic(failure{fmt.Errorf(format, a...)}) }
func (s *scope) Skip(args ...any)               { s.Fatal(args...) }

// detached is a context for commands that end with the scope and not before:
// what a cancelled context kills has no time to be cleaned up.
func (s *scope) detached() context.Context { return context.WithoutCancel(s.ctx) }

// Cleanup keeps f for close.
func (s *scope) Cleanup(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cleanups = append(s.cleanups, f)
}

// close runs the cleanups, the last one first.
func (s *scope) close() {
	s.mu.Lock()
	list := s.cleanups
	s.cleanups = nil
	s.mu.Unlock()
	for _, f := range slices.Backward(list) {
		f()
	}
}

// try returns what ended f early.
func try(f func()) (err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case failure:
			err = r.error
		default:
			panic(r)
		}
	}()
	f()
	return nil
}
