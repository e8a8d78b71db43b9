package main

import (
	"encoding/json"
	"strings"
	"testing"
)

// events is what `go test -json` says of one package with a test that passes,
// one that is skipped, one whose subtest fails; and of one that does not build.
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
	for dec := json.NewDecoder(strings.NewReader(events)); dec.More(); {
		var e event
		if err := dec.Decode(&e); err != nil {
			t.Fatal(err)
		}
		sum.add(e)
	}
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

func TestRunsAreSplitAtPlusSigns(t *testing.T) {
	got := split([]string{"-race", "./a", "+", "./b"})
	if len(got) != 2 || got[0][0] != "-race" || got[0][1] != "./a" || got[1][0] != "./b" {
		t.Errorf("split: %q", got)
	}
}
