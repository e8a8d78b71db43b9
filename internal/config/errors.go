package config

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"subnetrouter/internal/problem"
	"subnetrouter/internal/secret"
)

// Error holds all problems of a configuration, in the order of the settings table.
type Error struct{ Problems []Problem }

// Problem is one thing to change.
type Problem struct {
	Name string // as the operator spelled it: ROUTER_ROUTES, --routes, TS_ROUTES
	Text string // the value and the mistake in it, with the fix if Fix is ""
	Fix  string
}

func (p Problem) String() string {
	if p.Fix == "" {
		return p.Name + ": " + p.Text
	}
	return p.Name + ": " + p.Text + ": " + p.Fix
}

// Unwrap returns each problem as a [*problem.Problem].
func (e *Error) Unwrap() []error {
	list := make([]error, len(e.Problems))
	for i, p := range e.Problems {
		list[i] = &problem.Problem{Message: p.Name + ": " + p.Text, Fix: p.Fix}
	}
	return list
}

// Error prints one problem per line.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// report collects problems and warnings while a configuration is read.
type report struct {
	problems []ranked
	warnings []string
}

type ranked struct {
	rank int // the variable's place in the table
	Problem
}

// problem adds one problem for each error that err joins. Text that looks like a
// credential is redacted: operators paste them into the wrong variable.
func (r *report) problem(variable, name string, err error) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			r.problem(variable, name, e)
		}
		return
	}
	name = strings.Trim(strconv.Quote(name), `"`) // one line, even if the environment has control characters
	p := problem.Of(err)
	r.problems = append(r.problems, ranked{rank(variable), Problem{secret.Scrub(name), secret.Scrub(p.Message), secret.Scrub(p.Fix)}})
}

func (r *report) problemf(variable, name, text string) { r.problem(variable, name, errors.New(text)) }

func (r *report) warn(name, text string) {
	r.warnings = append(r.warnings, secret.Scrub(name+": "+text))
}

// bad reports whether there is a problem with a variable.
func (r *report) bad(variable string) bool {
	n := rank(variable)
	return slices.ContainsFunc(r.problems, func(p ranked) bool { return p.rank == n })
}

// err returns an [*Error], or nil without problems.
func (r *report) err() error {
	if len(r.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(r.problems, func(a, b ranked) int { return a.rank - b.rank })
	e := &Error{}
	for _, p := range r.problems {
		e.Problems = append(e.Problems, p.Problem)
	}
	return e
}
