package doctor

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"subnetrouter/internal/terminal"
)

var colours = map[State]string{Pass: "32", Warn: "33", Fail: "31", Skip: "2"}

// Print writes the report as text: one aligned line for each check, with its fix below. The
// values continue below themselves within the columns of a terminal; 0 does not wrap.
func (r Report) Print(w io.Writer, colour bool, columns int) {
	paint := func(code, s string) string {
		if !colour {
			return s
		}
		return "\x1b[" + code + "m" + s + "\x1b[0m"
	}
	width := 0
	for _, c := range r.Results {
		width = max(width, utf8.RuneCountInString(c.Name))
	}
	indent := strings.Repeat(" ", 2+4+2+width+2)
	for i, group := range r.Groups() {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintln(w, paint("1", group))
		for _, c := range r.Results {
			if c.Group != group {
				continue
			}
			pad := strings.Repeat(" ", width-utf8.RuneCountInString(c.Name))
			value := strings.Join(terminal.Wrap(c.Value, columns-len(indent)), "\n"+indent)
			fmt.Fprintf(w, "  %s  %s%s  %s\n", paint(colours[c.State], string(c.State)), c.Name, pad, value)
			if c.Fix != "" {
				fix := terminal.Wrap("fix: "+c.Fix, columns-len(indent))
				fix[0] = paint("1", "fix: ") + strings.TrimPrefix(fix[0], "fix: ")
				fmt.Fprintf(w, "%s%s\n", indent, strings.Join(fix, "\n"+indent))
			}
		}
	}
	fmt.Fprintf(w, "\n%d failed, %s, %d passed, %d skipped\n", r.Count[Fail],
		count(r.Count[Warn], "warning", "warnings"), r.Count[Pass], r.Count[Skip])
}
