// Command tally runs `go test` several times and counts all the tests together:
//
//	tally -jobs 2 -race ./internal/... + ./cmd/... + -count=1 ./test/...
//
// Each run between plus signs is one `go test -json`. All runs take place, even if an
// earlier one fails. A package takes one line; the output of a test is printed only if it
// fails. Skipped tests follow with their reasons, then one line of counts.
//
// Each run ends with its duration and its processor time, and the last line has the sum: the
// user and system time of `go test` and of the processes that it and its children have waited
// for. Containers are not among them.
//
// A package that ends in the middle of its tests, at its time limit or by a panic, is one
// failure: the output of its running tests is printed, and then the reason and their names.
//
// -jobs is the number of concurrent runs, which start in the order given. -times repeats
// each run, and adds a table of the failed tests with their number of failures.
package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

func main() {
	o, runs, err := parse(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "tally:", err)
		os.Exit(2)
	}
	t := newTally(os.Stdout)
	ok := t.all(o, runs, (*tally).run)
	if o.times > 1 {
		t.table()
	}
	t.summary()
	if !ok || t.failed > 0 {
		os.Exit(1)
	}
}

// options are the flags of tally itself; all other arguments are those of `go test`.
type options struct {
	jobs, times int
}

// parse parses tally's options at the front, and splits the rest at each plus sign.
func parse(args []string) (o options, runs [][]string, err error) {
	o = options{jobs: 1, times: 1}
	for len(args) > 1 {
		into := map[string]*int{"-jobs": &o.jobs, "-times": &o.times}[args[0]]
		if into == nil {
			break
		}
		if *into, err = strconv.Atoi(args[1]); err != nil || *into < 1 {
			return o, nil, fmt.Errorf("%s %s: want a number of 1 or more", args[0], args[1])
		}
		args = args[2:]
	}
	runs = split(args)
	if slices.ContainsFunc(runs, func(r []string) bool { return len(r) == 0 }) {
		return o, nil, errors.New("a run has no arguments; usage: tally [-jobs N] [-times N] ARGUMENTS OF go test [+ …]")
	}
	return o, runs, nil
}

// split splits the arguments at each plus sign.
func split(args []string) (runs [][]string) {
	for {
		i := slices.Index(args, "+")
		if i < 0 {
			return append(runs, args)
		}
		runs = append(runs, args[:i])
		args = args[i+1:]
	}
}

// all executes the runs, o.jobs at a time. Repetitions of a run follow each other, so that
// two of them run concurrently.
func (t *tally) all(o options, runs [][]string, run func(*tally, []string) bool) (ok bool) {
	ok = true
	free := make(chan struct{}, o.jobs)
	var wg sync.WaitGroup
	for _, args := range runs {
		for range o.times {
			free <- struct{}{}
			wg.Go(func() {
				defer func() { <-free }()
				good := run(t, args)
				t.mu.Lock()
				defer t.mu.Unlock()
				ok = ok && good
			})
		}
	}
	wg.Wait()
	return ok
}

type tally struct {
	mu                      sync.Mutex // covers all fields below, and writes to out
	out                     io.Writer
	passed, failed, skipped int
	processor               time.Duration   // user and system, of all runs
	skips                   map[string]bool // a set: each once, regardless of the number of runs
	results                 map[test]*result
}

type test struct{ pkg, name string } // name is "" for the package itself

// result counts the runs and failures of a test.
type result struct{ runs, failures int }

func newTally(out io.Writer) *tally {
	return &tally{out: out, skips: map[string]bool{}, results: map[test]*result{}}
}

// event is one line of `go test -json`.
type event struct {
	Action     string
	Package    string
	ImportPath string // set in the events of a build
	Test       string
	Elapsed    float64 // seconds
	Output     string
	// FailedBuild is set at the end of a package that does not build, whose build-output has the reason.
	FailedBuild string
}

func (t *tally) run(args []string) (ok bool) {
	began := time.Now()
	name := "go test " + strings.Join(args, " ")
	t.print(name + "\n")
	command := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	if slices.Contains(args, "-race") {
		command.Env = append(os.Environ(), "CGO_ENABLED=1") // the race detector needs cgo
	}
	command.Stderr = os.Stderr
	events, err := command.StdoutPipe()
	if err == nil {
		err = command.Start()
	}
	if err != nil {
		t.print(err.Error() + "\n")
		return false
	}
	r := t.newRun()
	dec := json.NewDecoder(events)
	for {
		var e event
		if err := dec.Decode(&e); err != nil {
			break
		}
		r.add(e)
	}
	complaint, _ := io.ReadAll(io.MultiReader(dec.Buffered(), events)) // the rest is not JSON
	ok = command.Wait() == nil
	used := command.ProcessState.UserTime() + command.ProcessState.SystemTime()
	t.mu.Lock()
	t.processor += used
	t.mu.Unlock()
	t.print(fmt.Sprintf("%s      %-40s %6.1fs, %.1fs of processor time\n", complaint, name, time.Since(began).Seconds(), used.Seconds()))
	return ok
}

func (t *tally) print(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprint(t.out, text)
}

// run is one `go test`. Another run of the same tests may be active at the same time.
type run struct {
	*tally
	failures map[string]int      // tests, by package
	log      map[string][]string // output so far, by package and test
	active   map[string][]string // tests that have begun and not ended, by package
	paused   map[test]bool       // those of them that wait to run in parallel
}

func (t *tally) newRun() *run {
	return &run{tally: t, failures: map[string]int{}, log: map[string][]string{}, active: map[string][]string{}, paused: map[test]bool{}}
}

func (r *run) add(e event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// A test's log is part of its parent's: a failed parent prints all.
	top, _, _ := strings.Cut(e.Test, "/")
	id := e.Package + " " + top
	switch e.Action {
	case "build-output":
		fmt.Fprint(r.out, e.Output)
	case "output":
		if strings.HasPrefix(e.Output, "=== ") {
			return // run, pause or cont
		}
		r.log[id] = append(r.log[id], e.Output)
	case "run":
		r.active[e.Package] = append(r.active[e.Package], e.Test)
	case "pause", "cont":
		r.paused[test{e.Package, e.Test}] = e.Action == "pause"
	case "pass", "fail", "skip":
		if e.Test == "" {
			r.endPackage(e)
		} else {
			r.endTest(e)
		}
		if e.Test == top {
			delete(r.log, id)
		}
	}
}

func (r *run) endTest(e event) {
	top, _, sub := strings.Cut(e.Test, "/")
	log := r.log[e.Package+" "+top]
	r.count(e)
	r.active[e.Package] = slices.DeleteFunc(r.active[e.Package], func(name string) bool { return name == e.Test })
	switch e.Action {
	case "pass":
		r.passed++
	case "skip":
		r.skipped++
		r.skips[fmt.Sprintf("%s %s: %s", e.Package, e.Test, reason(log, e.Test))] = true
	case "fail":
		r.failed++
		r.failures[e.Package]++
		if !sub {
			fmt.Fprint(r.out, strings.Join(log, ""))
		}
	}
}

func (r *run) count(e event) {
	id := test{e.Package, e.Test}
	if r.results[id] == nil {
		r.results[id] = new(result)
	}
	r.results[id].runs++
	if e.Action == "fail" {
		r.results[id].failures++
	}
}

// reason returns the message of a skipped test.
func reason(log []string, test string) string {
	end := slices.IndexFunc(log, func(l string) bool { return strings.Contains(l, "--- SKIP: "+test+" ") })
	if end < 0 {
		return "no reason given"
	}
	// The testing package prints it above the closing line, or below.
	for _, l := range []string{at(log, end-1), at(log, end+1)} {
		if _, text, ok := strings.Cut(strings.TrimSpace(l), ".go:"); ok {
			_, text, _ = strings.Cut(text, ": ")
			return text
		}
	}
	return "no reason given"
}

func at(log []string, i int) string {
	if i < 0 || i >= len(log) {
		return ""
	}
	return log[i]
}

func (r *run) endPackage(e event) {
	switch e.Action {
	case "pass":
		fmt.Fprintf(r.out, "ok    %-40s %6.1fs\n", e.Package, e.Elapsed)
	case "fail":
		running := r.running(e.Package)
		cut := len(running) > 0 || r.failures[e.Package] == 0 // not by a test that failed, or not only
		if cut {
			r.failed++
			r.count(e)
		}
		log := append(r.unfinished(e.Package), r.log[e.Package+" "]...)
		fmt.Fprint(r.out, strings.Join(log, ""))
		if cut && e.FailedBuild == "" {
			fmt.Fprintf(r.out, "      %s: %s\n", e.Package, whyCut(log, running))
		}
	}
}

// running returns the tests of a package that run, without the parents of others.
func (r *run) running(pkg string) (names []string) {
	active := r.active[pkg]
	for _, name := range active {
		parent := slices.ContainsFunc(active, func(other string) bool { return strings.HasPrefix(other, name+"/") })
		if !parent && !r.paused[test{pkg, name}] {
			names = append(names, name)
		}
	}
	return names
}

// unfinished returns the output of the tests of a package that have not ended. The testing package does not report such a test
// as failed, and the output of a panic is that of some test.
func (r *run) unfinished(pkg string) (log []string) {
	for _, name := range r.active[pkg] {
		if !strings.Contains(name, "/") { // whose output is its parent's
			log = append(log, r.log[pkg+" "+name]...)
		}
	}
	return log
}

// whyCut returns why a package failed in the middle of the running tests, or outside of all tests.
func whyCut(log, running []string) string {
	why := "failed outside of its tests"
	if len(running) > 0 {
		why = "the process ended"
	}
	for _, begin := range []string{"panic: ", "fatal error: ", "*** Test killed "} {
		if i := slices.IndexFunc(log, func(line string) bool { return strings.HasPrefix(line, begin) }); i >= 0 {
			why = strings.TrimSpace(log[i])
			break
		}
	}
	if len(running) > 0 {
		why += "; running: " + strings.Join(running, ", ")
	}
	return why
}

// table prints the failed tests with their number of failures.
func (t *tally) table() {
	byName := func(a, b test) int { return cmp.Or(cmp.Compare(a.pkg, b.pkg), cmp.Compare(a.name, b.name)) }
	fmt.Fprintf(t.out, "\n%4s %8s  %s\n", "runs", "failures", "test")
	for _, id := range slices.SortedFunc(maps.Keys(t.results), byName) {
		if r := t.results[id]; r.failures > 0 {
			fmt.Fprintf(t.out, "%4d %8d  %s %s\n", r.runs, r.failures, id.pkg, id.name)
		}
	}
	runs := 0
	for _, r := range t.results {
		runs += r.runs
	}
	fmt.Fprintf(t.out, "%4d %8d  all of %d tests\n", runs, t.failed, len(t.results))
}

func (t *tally) summary() {
	if len(t.skips) > 0 {
		fmt.Fprintln(t.out, "\nskipped:")
	}
	for _, s := range slices.Sorted(maps.Keys(t.skips)) {
		fmt.Fprintln(t.out, "  "+s)
	}
	fmt.Fprintf(t.out, "\n%d passed, %d failed, %d skipped, %.1fs of processor time\n", t.passed, t.failed, t.skipped, t.processor.Seconds())
}
