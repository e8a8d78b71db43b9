package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// events is the output of `go test -json` for one package with a test that passes, one
// that is skipped and one with a failing subtest; and for one that does not build.
const events = `
{"Action":"run","Package":"p","Test":"TestGood"}
{"Action":"output","Package":"p","Test":"TestGood","Output":"    good_test.go:9: chatter\n"}
{"Action":"pass","Package":"p","Test":"TestGood","Elapsed":1}
{"Action":"run","Package":"p","Test":"TestSkipped"}
{"Action":"output","Package":"p","Test":"TestSkipped","Output":"=== RUN   TestSkipped\n"}
{"Action":"output","Package":"p","Test":"TestSkipped","Output":"    skip_test.go:7: network namespaces need root\n"}
{"Action":"output","Package":"p","Test":"TestSkipped","Output":"--- SKIP: TestSkipped (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestSkipped","Elapsed":0}
{"Action":"run","Package":"p","Test":"TestBad"}
{"Action":"run","Package":"p","Test":"TestBad/sub"}
{"Action":"output","Package":"p","Test":"TestBad/sub","Output":"    bad_test.go:3: 1 is not 2\n"}
{"Action":"fail","Package":"p","Test":"TestBad/sub","Elapsed":0}
{"Action":"fail","Package":"p","Test":"TestBad","Elapsed":0}
{"Action":"output","Package":"p","Output":"FAIL\n"}
{"Action":"fail","Package":"p","Elapsed":2}
{"Action":"build-output","ImportPath":"q","Output":"q.go:1: syntax error\n"}
{"Action":"fail","Package":"q","Elapsed":0,"FailedBuild":"q"}
{"Action":"pass","Package":"r","Elapsed":0.25}
`

func TestTally(t *testing.T) {
	var out strings.Builder
	sum := newTally(&out)
	sum.newRun().read(t, events)
	sum.summary()
	want := `    bad_test.go:3: 1 is not 2
FAIL
q.go:1: syntax error
ok    r                                           0.2s

skipped:
  p TestSkipped: network namespaces need root

1 passed, 3 failed, 1 skipped, 0.0s of processor time
`
	if out.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", out.String(), want)
	}
}

// TestUnfinished: a package that ends in the middle of its tests is one failure. The output of the running tests is printed,
// where a panic is, and then the reason with their names. The events are those of `go test -json`, without the stacks.
func TestUnfinished(t *testing.T) {
	for name, c := range map[string]struct{ events, want string }{
		"time limit": {`
{"Action":"run","Package":"p","Test":"TestDone"}
{"Action":"output","Package":"p","Test":"TestDone","Output":"    a_test.go:3: chatter\n"}
{"Action":"pass","Package":"p","Test":"TestDone","Elapsed":0}
{"Action":"run","Package":"p","Test":"TestSlow"}
{"Action":"output","Package":"p","Test":"TestSlow","Output":"=== RUN   TestSlow\n"}
{"Action":"output","Package":"p","Test":"TestSlow","Output":"    a_test.go:4: waiting\n"}
{"Action":"run","Package":"p","Test":"TestSlow/sub"}
{"Action":"output","Package":"p","Test":"TestSlow/sub","Output":"panic: test timed out after 1s\n"}
{"Action":"output","Package":"p","Test":"TestSlow/sub","Output":"\trunning tests:\n"}
{"Action":"output","Package":"p","Test":"TestSlow/sub","Output":"\t\tTestSlow (1s)\n"}
{"Action":"output","Package":"p","Test":"TestSlow/sub","Output":"\t\tTestSlow/sub (1s)\n"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t1.141s\n"}
{"Action":"fail","Package":"p","Elapsed":1.141}
`, `    a_test.go:4: waiting
panic: test timed out after 1s
	running tests:
		TestSlow (1s)
		TestSlow/sub (1s)
FAIL	p	1.141s
      p: panic: test timed out after 1s; running: TestSlow/sub

1 passed, 1 failed, 0 skipped, 0.0s of processor time
`},
		"time limit, in parallel, after a failure": {`
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"pause","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestB"}
{"Action":"pause","Package":"p","Test":"TestB"}
{"Action":"run","Package":"p","Test":"TestC"}
{"Action":"pause","Package":"p","Test":"TestC"}
{"Action":"run","Package":"p","Test":"TestBad"}
{"Action":"output","Package":"p","Test":"TestBad","Output":"    a_test.go:5: 1 is not 2\n"}
{"Action":"fail","Package":"p","Test":"TestBad","Elapsed":0}
{"Action":"cont","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Test":"TestB","Output":"    a_test.go:6: from B\n"}
{"Action":"cont","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"panic: test timed out after 10m0s\n"}
{"Action":"fail","Package":"p","Elapsed":600}
`, `    a_test.go:5: 1 is not 2
panic: test timed out after 10m0s
    a_test.go:6: from B
      p: panic: test timed out after 10m0s; running: TestA, TestB

0 passed, 2 failed, 0 skipped, 0.0s of processor time
`},
		"panic": {`
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"panic: boom [recovered, repanicked]\n"}
{"Action":"fail","Package":"p","Elapsed":0.1}
`, `panic: boom [recovered, repanicked]
      p: panic: boom [recovered, repanicked]; running: TestA

0 passed, 1 failed, 0 skipped, 0.0s of processor time
`},
		"killed": {`
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestA","Elapsed":0}
{"Action":"output","Package":"p","Output":"*** Test killed with quit: ran too long (1m1s).\n"}
{"Action":"fail","Package":"p","Elapsed":61}
`, `*** Test killed with quit: ran too long (1m1s).
      p: *** Test killed with quit: ran too long (1m1s).

1 passed, 1 failed, 0 skipped, 0.0s of processor time
`},
		"exit": {`
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t0.002s\n"}
{"Action":"fail","Package":"p","Elapsed":0.002}
`, `FAIL	p	0.002s
      p: the process ended; running: TestA

0 passed, 1 failed, 0 skipped, 0.0s of processor time
`},
		"TestMain": {`
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestA","Elapsed":0}
{"Action":"output","Package":"p","Output":"goroutines leak\n"}
{"Action":"fail","Package":"p","Elapsed":0.002}
`, `goroutines leak
      p: failed outside of its tests

1 passed, 1 failed, 0 skipped, 0.0s of processor time
`},
	} {
		var out strings.Builder
		sum := newTally(&out)
		sum.newRun().read(t, c.events)
		sum.summary()
		if out.String() != c.want {
			t.Errorf("%s: got:\n%s\nwant:\n%s", name, out.String(), c.want)
		}
	}
}

// read adds all events to a run.
func (r *run) read(t *testing.T, events string) {
	for dec := json.NewDecoder(strings.NewReader(events)); dec.More(); {
		var e event
		if err := dec.Decode(&e); err != nil {
			t.Error(err)
			return
		}
		r.add(e)
	}
}

// TestFlakes repeats two runs; one of them fails every second time.
func TestFlakes(t *testing.T) {
	var out strings.Builder
	sum := newTally(&out)
	var mu sync.Mutex
	var times, at, most int
	ok := sum.all(options{jobs: 2, times: 4}, [][]string{{"flaky"}, {"good"}}, func(sum *tally, args []string) bool {
		mu.Lock()
		times++
		bad := args[0] == "flaky" && times%2 == 0
		at++
		most = max(most, at)
		mu.Unlock()
		action := "pass"
		if bad {
			action = "fail"
		}
		sum.newRun().read(t, `{"Action":"`+action+`","Package":"`+args[0]+`","Test":"TestA"}`)
		mu.Lock()
		at--
		mu.Unlock()
		return !bad
	})
	sum.table()
	sum.summary()
	want := `
runs failures  test
   4        2  flaky TestA
   8        2  all of 2 tests

6 passed, 2 failed, 0 skipped, 0.0s of processor time
`
	if ok || out.String() != want {
		t.Errorf("ok is %v; got:\n%s\nwant:\n%s", ok, out.String(), want)
	}
	if times != 8 || most > 2 {
		t.Errorf("%d runs, at most %d at a time; want 8, two at a time", times, most)
	}
}

// TestProcessorTime: the processor time of a run is that of `go test` and its children, also if it fails.
func TestProcessorTime(t *testing.T) {
	if os.Getenv("TALLY_BURN") != "" {
		burn(t)
		return
	}
	folder := t.TempDir()
	script := `#!/bin/sh
TALLY_BURN=1 "` + os.Args[0] + `" -test.run='^TestProcessorTime$' >/dev/null
echo '{"Action":"pass","Package":"p"}'
exit 1
`
	if err := os.WriteFile(filepath.Join(folder, "go"), []byte(script), 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	t.Setenv("PATH", folder+string(filepath.ListSeparator)+os.Getenv("PATH"))
	var out strings.Builder
	sum := newTally(&out)
	if sum.all(options{jobs: 2, times: 2}, [][]string{{"./p"}}, (*tally).run) {
		t.Error("a run that failed is good")
	}
	sum.summary()
	m := regexp.MustCompile(`(?m)^      go test \./p +[0-9.]+s, ([0-9.]+)s of processor time$`).FindAllStringSubmatch(out.String(), -1)
	total := regexp.MustCompile(`(?m)^0 passed, 0 failed, 0 skipped, ([0-9.]+)s of processor time$`).FindStringSubmatch(out.String())
	if len(m) != 2 || total == nil {
		t.Fatalf("got:\n%s", out.String())
	}
	seconds := func(text string) float64 {
		s, err := strconv.ParseFloat(text, 64)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first, second := seconds(m[0][1]), seconds(m[1][1])
	const rounded = 0.05 + 1e-9 // by one number
	if b := burnt.Seconds(); first < b-rounded || second < b-rounded {
		t.Errorf("%.1f and %.1f s, of which a child used %.1f", first, second, b)
	}
	if d := seconds(total[1]) - first - second; d < -3*rounded || d > 3*rounded {
		t.Errorf("a total of %s s, of %.1f and %.1f", total[1], first, second)
	}
}

const burnt = 300 * time.Millisecond

// burn uses processor time.
func burn(t *testing.T) {
	for {
		var use syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
			t.Fatal(err)
		}
		if time.Duration(use.Utime.Nano()+use.Stime.Nano()) >= burnt {
			return
		}
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		args string
		o    options
		runs [][]string
		err  string
	}{
		{args: "-race ./a + ./b", o: options{1, 1}, runs: [][]string{{"-race", "./a"}, {"./b"}}},
		{args: "-jobs 2 -times 10 ./a", o: options{2, 10}, runs: [][]string{{"./a"}}},
		{args: "-run -jobs ./a", o: options{1, 1}, runs: [][]string{{"-run", "-jobs", "./a"}}},
		{args: "-jobs no ./a", err: "-jobs no: want a number of 1 or more"},
		{args: "-times 0 ./a", err: "-times 0: want a number of 1 or more"},
		{args: "./a +", err: "a run has no arguments"},
		{args: "", err: "a run has no arguments"},
	} {
		o, runs, err := parse(strings.Fields(c.args))
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q: error %v, want %q", c.args, err, c.err)
			}
			continue
		}
		if err != nil || o != c.o || !reflect.DeepEqual(runs, c.runs) {
			t.Errorf("%q: %v %q, %v; want %v %q", c.args, o, runs, err, c.o, c.runs)
		}
	}
}
