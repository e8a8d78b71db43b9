// Package doctor checks everything that a router needs in one pass: its place, AWS, the
// credential, the control server, the DERP servers, the host and the routes. Each result has
// the measured value and the fix. It does not join the tailnet, changes nothing, and ends in
// a bounded time even if nothing answers.
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

// The states. Only Fail makes the report fail.
const (
	Pass State = "pass"
	Warn State = "warn" // it works, but not as well as it could
	Fail State = "fail" // the router does not work
	Skip State = "skip" // not checked; the value has the reason
)

// Result holds the outcome of one check.
type Result struct {
	Group string `json:"group"`
	Name  string `json:"name"`
	State State  `json:"state"`
	// Value is the measured value, never a secret.
	Value string `json:"value"`
	// Fix is the change to make; "" if there is none.
	Fix string `json:"fix,omitempty"`
	// Seconds is how long the check took.
	Seconds float64 `json:"seconds"`
}

// Check is one check, not run yet.
type Check struct {
	Group, Name string
	// Run returns the result without Group and Name, which are added. It should return
	// when ctx ends.
	Run func(ctx context.Context) Result
}

// Report holds the results of all checks.
type Report struct {
	OK      bool              `json:"ok"` // nothing failed
	Count   map[State]int     `json:"count"`
	Results []Result          `json:"checks"`
	Version map[string]string `json:"version,omitempty"`
}

// checkTimeout bounds one check. Facts that several checks share have less time, so that
// the checks can still report that the fact is missing.
const (
	checkTimeout = 14 * time.Second
	factTimeout  = 9 * time.Second
)

// Run runs all checks concurrently, and returns their results in the order of checks.
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

// run returns the result of c, or a failure shortly after ctx ends, even if c.Run does not
// return.
func (c Check) run(ctx context.Context) Result {
	start := time.Now()
	done := make(chan Result, 1)
	go func() { done <- c.Run(ctx) }()
	var r Result
	select {
	case r = <-done:
	case <-ctx.Done():
		select { // the check may return for the same reason, with a better message
		case r = <-done:
		case <-time.After(500 * time.Millisecond):
			r = fail("not done within "+checkTimeout.String(), "see the other lines first: one of them is likely the cause")
		}
	}
	r.Group, r.Name, r.Seconds = c.Group, c.Name, time.Since(start).Seconds()
	// The last defense: no error should contain a credential, and none gets out.
	r.Value, r.Fix = secret.Scrub(oneLine(r.Value)), secret.Scrub(oneLine(r.Fix))
	return r
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

func pass(value string) Result      { return Result{State: Pass, Value: value} }
func warn(value, fix string) Result { return Result{State: Warn, Value: value, Fix: fix} }
func fail(value, fix string) Result { return Result{State: Fail, Value: value, Fix: fix} }
func skip(value string) Result      { return Result{State: Skip, Value: value} }

// failed returns a failed result with the message and fix of err. If err has no fix, the fix
// is reach, since the network path is the likeliest cause of a missing answer.
func failed(err error, reach string) Result {
	p := problem.Of(err)
	message := p.Message
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		message = "no answer in time: " + message
	}
	return fail(message, cmp.Or(p.Fix, reach))
}

// newFact returns a fact that several checks share. The first check that needs it looks it
// up.
func newFact[T any](find func(context.Context) (T, error)) *memo.Memo[T] {
	return memo.Once(func(ctx context.Context) (T, error) {
		ctx, cancel := context.WithTimeout(ctx, factTimeout)
		defer cancel()
		return find(ctx)
	})
}

// count returns n with its noun in the singular or plural.
func count(n int, one, many string) string {
	if n == 1 {
		return fmt.Sprintf("1 %s", one)
	}
	return fmt.Sprintf("%d %s", n, many)
}

// Groups returns the groups in the order of their first results.
func (r Report) Groups() []string {
	var groups []string
	for _, c := range r.Results {
		if !slices.Contains(groups, c.Group) {
			groups = append(groups, c.Group)
		}
	}
	return groups
}
