package config

import (
	"fmt"
	"strings"
)

// Usage returns a description of every setting, from the table by which [Load] reads them.
func Usage() string {
	var b strings.Builder
	b.WriteString("Settings, as environment variables or flags. The first one set wins: flag, ROUTER_*,\n" +
		"TS_* (names of the official image), TAILSCALE_*. file:PATH reads a value from a file.\n")
	for _, v := range variables {
		names := []string{v.name}
		if v.flag != "" {
			names = append([]string{"--" + v.flag}, names...)
		}
		fmt.Fprintf(&b, "\n  %s\n", strings.Join(append(names, v.aliases...), ", "))
		text := v.meaning
		if v.closed() {
			text += " Values: " + v.accepts + "."
		}
		if d := v.defaultText(); d != "" {
			text += " Default: " + d + "."
		}
		for _, line := range wrap(text, 80) {
			fmt.Fprintf(&b, "      %s\n", line)
		}
	}
	return b.String()
}

// defaultText returns the default as people read it.
func (v variable) defaultText() string {
	if v.shown != "" {
		return v.shown
	}
	return v.fallback
}

// closed reports whether accepts lists the values, or the ends of their range.
func (v variable) closed() bool { return len(v.choices()) > 0 || v.bounds() != nil }

// bounds returns the ends of a range, or nil.
func (v variable) bounds() []string {
	lowest, highest, found := strings.Cut(v.accepts, " to ")
	if !found {
		return nil
	}
	return []string{lowest, highest}
}

// choices returns the words of "a, b or c", or nil.
func (v variable) choices() []string {
	words := strings.Split(strings.Replace(v.accepts, " or ", ", ", 1), ", ")
	for _, w := range words {
		if len(words) < 2 || strings.ContainsAny(w, " :") {
			return nil
		}
	}
	return words
}

// wrap breaks text into lines of at most width bytes; a longer word has a line of its own.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
