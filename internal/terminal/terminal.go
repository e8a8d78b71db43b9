// Package terminal fits text to the terminal that shows it. Output that goes elsewhere, such
// as a log or a pipe, is neither wrapped nor coloured.
package terminal

import (
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"
)

// Width returns the number of columns of the terminal w, or 0 if w is not a terminal.
func Width(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	columns, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return columns
}

// Coloured reports whether output to w may have colours: on a terminal, unless the user
// opted out with NO_COLOR (https://no-color.org) or TERM=dumb. getenv is [os.Getenv], or reads
// another environment.
func Coloured(w io.Writer, getenv func(string) string) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && getenv("NO_COLOR") == "" && getenv("TERM") != "dumb"
}

// minWidth is the narrowest column to which Wrap wraps: below it, a word a line is less
// readable than the terminal's own wrapping.
const minWidth = 20

// Wrap breaks a line into lines of at most width columns. It breaks at spaces and keeps the
// line's indentation; it leaves a longer word whole, so that addresses and commands can be
// copied. A width below 20 columns, such as that of no terminal, does not wrap.
func Wrap(line string, width int) (out []string) {
	indent := line[:len(line)-len(strings.TrimLeft(line, " "))]
	for width >= minWidth && utf8.RuneCountInString(line) > width {
		end := breakAt(line, len(indent), width)
		if end < 0 {
			break
		}
		out = append(out, strings.TrimRight(line[:end], " "))
		line = indent + strings.TrimLeft(line[end:], " ")
	}
	return append(out, line)
}

// breakAt returns the index of the last space within the width, or of the first one after it,
// that follows text; -1 if there is none.
func breakAt(line string, from, width int) int {
	at, columns := -1, from
	for i, r := range line[from:] {
		if r == ' ' && i > 0 {
			if columns > width && at >= 0 {
				return at
			}
			at = from + i
		}
		if columns++; columns > width && at >= 0 {
			return at
		}
	}
	if columns <= width {
		return -1
	}
	return at
}

// Fit returns text with each line wrapped, and hang further spaces before continued lines.
func Fit(text string, width, hang int) string {
	if width == 0 {
		return text
	}
	var b strings.Builder
	for line := range strings.Lines(text) {
		line, newline := strings.CutSuffix(line, "\n")
		parts := Wrap(line, width)
		if len(parts) > 1 {
			first := parts[0]
			rest := strings.TrimLeft(strings.TrimPrefix(line, first), " ")
			indent := strings.Repeat(" ", len(line)-len(strings.TrimLeft(line, " "))+hang)
			parts = append([]string{first}, Wrap(indent+rest, width)...)
		}
		b.WriteString(strings.Join(parts, "\n"))
		if newline {
			b.WriteByte('\n')
		}
	}
	return b.String()
}
