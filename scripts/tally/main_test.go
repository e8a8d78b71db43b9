package main

import (
	"encoding/json"
	"reflect"
	"strings"
	"sync"
	"testing"
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
{"Action":"fail","Package":"q","Elapsed":0}
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

1 passed, 3 failed, 1 skipped
`
	if out.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", out.String(), want)
	}
}

// read adds all events to two concurrent runs.
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

6 passed, 2 failed, 0 skipped
`
	if ok || out.String() != want {
		t.Errorf("ok is %v; got:\n%s\nwant:\n%s", ok, out.String(), want)
	}
	if times != 8 || most > 2 {
		t.Errorf("%d runs, at most %d at a time; want 8, two at a time", times, most)
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
