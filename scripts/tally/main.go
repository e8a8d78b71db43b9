// Command tally runs `go test` several times and counts all the tests together:
//
//	tally -race ./internal/... + ./cmd/... + -count=1 ./test/...
//
// Each run between plus signs is one `go test -json`, made even if an earlier
// one failed. A package takes one line; the output of a test shows only if it
// fails. What was skipped follows with its reasons, then one line of counts.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
)

func main() {
	t := newTally(os.Stdout)
	ok := true
	for _, args := range split(os.Args[1:]) {
		ok = t.run(args) && ok
	}
	t.summary()
	if !ok || t.failed > 0 {
		os.Exit(1)
	}
}

// split cuts the arguments at each plus sign.
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

type tally struct {
	out                     io.Writer
	passed, failed, skipped int
	skips                   []string
	failures                map[string]int      // tests, by package
	log                     map[string][]string // output so far, by package and test
}

func newTally(out io.Writer) *tally {
	return &tally{out: out, failures: map[string]int{}, log: map[string][]string{}}
}

// event is one line of `go test -json`.
type event struct {
	Action     string
	Package    string
	ImportPath string // of the events of a build
	Test       string
	Elapsed    float64 // seconds
	Output     string
}

func (t *tally) run(args []string) (ok bool) {
	fmt.Fprintf(t.out, "go test %s\n", strings.Join(args, " "))
	test := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	if slices.Contains(args, "-race") {
		test.Env = append(os.Environ(), "CGO_ENABLED=1") // the race detector is C
	}
	test.Stderr = os.Stderr
	events, err := test.StdoutPipe()
	if err == nil {
		err = test.Start()
	}
	if err != nil {
		fmt.Fprintln(t.out, err)
		return false
	}
	dec := json.NewDecoder(events)
	for {
		var e event
		if err := dec.Decode(&e); err != nil {
			break
		}
		t.add(e)
	}
	io.Copy(t.out, io.MultiReader(dec.Buffered(), events)) // what is not JSON is a complaint
	return test.Wait() == nil
}

func (t *tally) add(e event) {
	// A test's log goes with its parent's: a failed parent shows all.
	top, _, _ := strings.Cut(e.Test, "/")
	id := e.Package + " " + top
	switch e.Action {
	case "build-output":
		fmt.Fprint(t.out, e.Output)
	case "output":
		if strings.HasPrefix(e.Output, "=== ") {
			return // the start of a test, or its turn
		}
		t.log[id] = append(t.log[id], e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			t.endPackage(e)
		} else {
			t.endTest(e)
		}
		if e.Test == top {
			delete(t.log, id)
		}
	}
}

func (t *tally) endTest(e event) {
	top, _, sub := strings.Cut(e.Test, "/")
	log := t.log[e.Package+" "+top]
	switch e.Action {
	case "pass":
		t.passed++
	case "skip":
		t.skipped++
		t.skips = append(t.skips, fmt.Sprintf("%s %s: %s", e.Package, e.Test, reason(log, e.Test)))
	case "fail":
		t.failed++
		t.failures[e.Package]++
		if !sub {
			fmt.Fprint(t.out, strings.Join(log, ""))
		}
	}
}

// reason finds what a skipped test said before its closing line.
func reason(log []string, test string) string {
	end := slices.IndexFunc(log, func(l string) bool { return strings.Contains(l, "--- SKIP: "+test+" ") })
	if end < 0 {
		return "no reason given"
	}
	// The testing package puts it above the closing line, or below.
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

func (t *tally) endPackage(e event) {
	switch e.Action {
	case "pass":
		fmt.Fprintf(t.out, "ok    %-40s %6.1fs\n", e.Package, e.Elapsed)
	case "fail":
		if t.failures[e.Package] == 0 { // it did not build, or did not get to its tests
			t.failed++
		}
		fmt.Fprint(t.out, strings.Join(t.log[e.Package+" "], ""))
	}
}

func (t *tally) summary() {
	if len(t.skips) > 0 {
		fmt.Fprintln(t.out, "\nskipped:")
	}
	for _, s := range t.skips {
		fmt.Fprintln(t.out, "  "+s)
	}
	fmt.Fprintf(t.out, "\n%d passed, %d failed, %d skipped\n", t.passed, t.failed, t.skipped)
}
