package terminal

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestWrap(t *testing.T) {
	for _, c := range []struct {
		line  string
		width int
		want  []string
	}{
		{"short", 20, []string{"short"}},
		{"", 20, []string{""}},
		{"not a terminal, so of any length", 0, []string{"not a terminal, so of any length"}},
		{"too narrow, so of any length", 19, []string{"too narrow, so of any length"}},
		{"one two three four five", 20, []string{"one two three four", "five"}},
		{"one two three four12 five", 20, []string{"one two three four12", "five"}},
		{"http://127.0.0.1:9002/status and more", 20, []string{"http://127.0.0.1:9002/status", "and more"}},
		{"see http://127.0.0.1:9002/status", 20, []string{"see", "http://127.0.0.1:9002/status"}},
		{"ümläute zählen je eine Spalte", 20, []string{"ümläute zählen je", "eine Spalte"}},
		{"   indented text is continued", 20, []string{"   indented text is", "   continued"}},
	} {
		if got := Wrap(c.line, c.width); !slices.Equal(got, c.want) {
			t.Errorf("Wrap(%q, %d) = %q, want %q", c.line, c.width, got, c.want)
		}
	}
}

// FuzzWrap: wrapping keeps every word, and a line is too long only if it is one word.
func FuzzWrap(f *testing.F) {
	f.Add("one two three four five six", 20)
	f.Add("   indented   and   wide gaps everywhere  ", 24)
	f.Fuzz(func(t *testing.T, line string, width int) {
		if strings.ContainsAny(line, "\n\r\t\v\f\u0085\u00a0") || !utf8.ValidString(line) || width > 1000 {
			t.Skip()
		}
		lines := Wrap(line, width)
		if got, want := strings.Fields(strings.Join(lines, " ")), strings.Fields(line); !slices.Equal(got, want) {
			t.Fatalf("Wrap(%q, %d) has the words %q, want %q", line, width, got, want)
		}
		for _, l := range lines {
			if width >= minWidth && utf8.RuneCountInString(l) > width && strings.Contains(strings.Trim(l, " "), " ") {
				t.Fatalf("Wrap(%q, %d) has the line %q", line, width, l)
			}
		}
	})
}

func TestFit(t *testing.T) {
	const text = "a list of words that is longer\n\n  indented text that is longer too\nlast"
	if got := Fit(text, 0, 2); got != text {
		t.Errorf("no terminal: %q", got)
	}
	const want = "a list of words that\n  is longer\n\n  indented text that\n    is longer too\nlast"
	if got := Fit(text, 20, 2); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// TestNotATerminal: a file, a buffer and a device that is no terminal have no width or colour.
func TestNotATerminal(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	none := func(string) string { return "" }
	if Width(file) != 0 || Width(null) != 0 || Width(new(bytes.Buffer)) != 0 {
		t.Error("output that is no terminal has a width")
	}
	if Coloured(file, none) || Coloured(null, none) || Coloured(new(bytes.Buffer), none) {
		t.Error("output that is no terminal is coloured")
	}
}
