package config

import (
	"fmt"
	"strings"
)

// Usage describes every setting, from the table that [Load] reads them by.
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

// wrap breaks text into lines of at most width bytes, where words allow.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
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
