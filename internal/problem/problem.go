// Package problem defines the type of failures that an operator has to act on: a code for
// machines, a message, a fix, and the time to wait. Every package whose errors reach
// /readyz, `router doctor` or the start-up output returns a [*Problem]; codes.go has the
// closed set of codes.
package problem

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Problem is a failure that an operator can act on. It never holds a credential.
type Problem struct {
	// Code is the code in /readyz and metrics; "" means that the caller's applies.
	Code Code
	// Message names the action, its object and the cause.
	Message string
	// Fix is the change to make, as an imperative; "" if there is none.
	Fix string
	// RetryAfter is the time to wait that the other side requested; 0 if it did not.
	RetryAfter time.Duration
	// Err is the cause for [errors.Is] and [errors.As]; its text is not shown. It may be nil.
	Err error
}

// Error returns the message and the fix.
func (p *Problem) Error() string {
	if p.Fix == "" {
		return p.Message
	}
	return p.Message + "; " + p.Fix
}

// Unwrap returns the cause.
func (p *Problem) Unwrap() error { return p.Err }

// New returns a Problem without a code; format and args give the message.
func New(fix, format string, args ...any) *Problem {
	err := fmt.Errorf(format, args...)
	return &Problem{Message: err.Error(), Fix: fix, Err: errors.Unwrap(err)}
}

// Wrapf puts "context: " before the message of err, as [fmt.Errorf] with %w does,
// and keeps the parts of a Problem apart. It returns nil if err is nil.
func Wrapf(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	p := *Of(err)
	p.Message, p.Err = fmt.Sprintf(format, args...)+": "+p.Message, err
	return &p
}

// Choice names the values of which an operator writes one: "a, b or c". There is at least one.
func Choice(values []string) string {
	last := len(values) - 1
	if last == 0 {
		return values[0]
	}
	return strings.Join(values[:last], ", ") + " or " + values[last]
}

// Of returns err as a Problem, and nil for nil. If err only wraps a Problem, the message is
// the whole text of err, which contains the fix, and there is no separate fix.
func Of(err error) *Problem {
	if err == nil {
		return nil
	}
	if p, ok := err.(*Problem); ok { //nolint:errorlint // a Problem further down is the case below
		return p
	}
	p := &Problem{Message: err.Error(), Err: err}
	if inner, ok := errors.AsType[*Problem](err); ok {
		p.Code, p.RetryAfter = inner.Code, inner.RetryAfter
	}
	return p
}

// CodeOf returns the code of err, or fallback if err has none.
func CodeOf(err error, fallback Code) Code {
	for err != nil {
		p, ok := errors.AsType[*Problem](err)
		if !ok {
			break
		}
		if p.Code != "" {
			return p.Code
		}
		err = p.Err
	}
	return fallback
}
