package doctor

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"
)

// TestPrintFitsTheTerminal: in 80 columns, values and fixes continue below themselves; without
// a terminal each stays on one line, for grep.
func TestPrintFitsTheTerminal(t *testing.T) {
	long := strings.Repeat("allow outbound TCP 443 ", 8)
	r := Report{Results: []Result{{Group: "control", Name: "reach", State: Fail, Value: long, Fix: long}}, Count: map[State]int{Fail: 1}}
	var narrow, none, coloured bytes.Buffer
	r.Print(&narrow, false, 80)
	r.Print(&none, false, 0)
	r.Print(&coloured, true, 80)
	for line := range strings.Lines(narrow.String()) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	if got := strings.Fields(narrow.String()); strings.Join(got, " ") != strings.Join(strings.Fields(none.String()), " ") {
		t.Errorf("wrapping changed the words:\n%s", narrow.String())
	}
	if !strings.Contains(none.String(), long) {
		t.Errorf("without a terminal:\n%s", none.String())
	}
	if !strings.Contains(coloured.String(), "\x1b[1mfix: \x1b[0mallow") || strings.Contains(narrow.String(), "\x1b") {
		t.Errorf("colours:\n%q\n%q", coloured.String(), narrow.String())
	}
}
