// Package doctor examines all that a router needs: one pass over its place, AWS,
// the credential, the control server, the relays, the host and the routes, each
// finding with the value measured and what to change. It joins nothing, changes
// nothing, and is done in a bounded time even if nothing answers.
package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"subnetrouter/internal/memo"
	"subnetrouter/internal/problem"
	"subnetrouter/internal/secret"
)

// State is the outcome of one check.
type State string

// The states. Only Fail makes the whole fail.
const (
	Pass State = "pass"
	Warn State = "warn" // it works, but not as well as it could
	Fail State = "fail" // the router cannot work so
	Skip State = "skip" // not examined, and why
)

// Result is what one check found.
type Result struct {
	Group string `json:"group"`
	Name  string `json:"name"`
	State State  `json:"state"`
	// Value is what was measured, never a secret.
	Value string `json:"value"`
	// Fix is what to change; "" where there is nothing to change.
	Fix string `json:"fix,omitempty"`
	// Seconds is how long the check took.
	Seconds float64 `json:"seconds"`
}

// Check is one question.
type Check struct {
	Group, Name string
	// Run answers it; what it returns is completed with Group and Name. It
	// should end when ctx does.
	Run func(ctx context.Context) Result
}

// Report is one examination.
type Report struct {
	OK      bool              `json:"ok"` // nothing failed
	Count   map[State]int     `json:"count"`
	Results []Result          `json:"checks"`
	Version map[string]string `json:"version,omitempty"`
}

// patience bounds one check. A fact that several need has less, so that they
// can still say what they make of its absence.
const (
	checkTimeout = 14 * time.Second
	factTimeout  = 9 * time.Second
)

// Run runs all checks at once. Their order is kept.
func Run(ctx context.Context, checks []Check) Report {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	report := Report{OK: true, Count: map[State]int{Pass: 0, Warn: 0, Fail: 0, Skip: 0}}
	report.Results = make([]Result, len(checks))
	var wg sync.WaitGroup
	for i, c := range checks {
		wg.Go(func() { report.Results[i] = c.run(ctx) })
	}
	wg.Wait()
	for _, r := range report.Results {
		report.Count[r.State]++
		report.OK = report.OK && r.State != Fail
	}
	return report
}

// run waits no longer than ctx lasts, even for a check that does.
func (c Check) run(ctx context.Context) Result {
	start := time.Now()
	done := make(chan Result, 1)
	go func() { done <- c.Run(ctx) }()
	var r Result
	select {
	case r = <-done:
	case <-ctx.Done():
		select { // the check may have ended for the same reason, with better words
		case r = <-done:
		case <-time.After(500 * time.Millisecond):
			r = fail("no outcome within "+checkTimeout.String(), "look at the other lines first: one of them is likely the cause")
		}
	}
	r.Group, r.Name, r.Seconds = c.Group, c.Name, time.Since(start).Seconds()
	// A wall behind the walls: no error should carry a credential, none gets out.
	r.Value, r.Fix = secret.Scrub(oneLine(r.Value)), secret.Scrub(oneLine(r.Fix))
	return r
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

func pass(value string) Result      { return Result{State: Pass, Value: value} }
func warn(value, fix string) Result { return Result{State: Warn, Value: value, Fix: fix} }
func fail(value, fix string) Result { return Result{State: Fail, Value: value, Fix: fix} }
func skip(value string) Result      { return Result{State: Skip, Value: value} }

// failed returns the failure err with its fix, or, if err has none, with reach: an answer
// that is missing has the way to the other side as its likeliest cause.
func failed(err error, reach string) Result {
	p := problem.Of(err)
	message := p.Message
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		message = "no answer in time: " + message
	}
	return fail(message, cmp.Or(p.Fix, reach))
}

// newFact returns a fact that several checks need, and that the first of them
// looks up.
func newFact[T any](find func(context.Context) (T, error)) *memo.Memo[T] {
	return memo.Once(func(ctx context.Context) (T, error) {
		ctx, cancel := context.WithTimeout(ctx, factTimeout)
		defer cancel()
		return find(ctx)
	})
}

func count(n int, one, many string) string {
	if n == 1 {
		return fmt.Sprintf("1 %s", one)
	}
	return fmt.Sprintf("%d %s", n, many)
}

// Groups are the groups in the order in which they appear.
func (r Report) Groups() []string {
	var groups []string
	for _, c := range r.Results {
		if !slices.Contains(groups, c.Group) {
			groups = append(groups, c.Group)
		}
	}
	return groups
}
