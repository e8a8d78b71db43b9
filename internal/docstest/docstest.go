// Package docstest compares generated parts of documents with their sources, for tests.
package docstest

import (
	"os"
	"strings"
	"testing"
)

// Generated fails the test unless text stands in the document between the lines
// "<!-- BEGIN_mark -->" and "<!-- END_mark -->". With update it writes text there instead.
// command is the one that does so, for the message.
func Generated(t *testing.T, file, mark, text string, update bool, command string) {
	t.Helper()
	begin, end := "<!-- BEGIN_"+mark+" -->\n", "<!-- END_"+mark+" -->"
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(b), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s lacks the markers %q and %q", file, begin, end)
	}
	want := head + begin + text + end + tail
	if update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if string(b) != want {
		t.Errorf("the generated part of %s is out of date: run %s", file, command)
	}
}
