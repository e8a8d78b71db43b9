package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
)

// scope is the testing.TB that netnstest needs, outside of a test. It runs cleanups when
// closed, and a Fatal panics, which try recovers.
type scope struct {
	testing.TB // nil: netnstest calls only the methods below
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

// detached returns a context for commands that the scope ends. A cancelled context would
// kill them before their cleanups run.
func (s *scope) detached() context.Context { return context.WithoutCancel(s.ctx) }

// Cleanup makes close call f.
func (s *scope) Cleanup(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cleanups = append(s.cleanups, f)
}

// close runs the cleanups in reverse order.
func (s *scope) close() {
	s.mu.Lock()
	list := s.cleanups
	s.cleanups = nil
	s.mu.Unlock()
	for _, f := range slices.Backward(list) {
		f()
	}
}

// try calls f and returns the error of a Fatal in it.
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
