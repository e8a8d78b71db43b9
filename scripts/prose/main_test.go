package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestTree enforces the limits on this repository.
func TestTree(t *testing.T) {
	var out strings.Builder
	ok, err := run(&out, "../..", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + out.String())
	if !ok {
		t.Error("the prose exceeds its limits: reword it; `go run ./scripts/prose -list FOLDER` shows the lines")
	}
}

func TestComments(t *testing.T) {
	got := comments([]byte(`//go:build linux

// Package p prints hello.
package p

/* one
two */
var s = "// what" // three //nolint:x
`))
	want := []string{"", "", "  Package p prints hello.", "", "", "  one", " two ", "  three //nolint:x", ""}
	if !slices.Equal(got, want) {
		t.Errorf("comments returned %q, want %q", got, want)
	}
}

func TestOutsideCode(t *testing.T) {
	got := outsideCode([]byte("a\n```sh\nwhat\n```\nb\n  ~~~\n```\n  ~~~\nc"))
	want := []string{"a", "", "", "", "b", "", "", "", "c"}
	if !slices.Equal(got, want) {
		t.Errorf("outsideCode returned %q, want %q", got, want)
	}
}

func TestCountLine(t *testing.T) {
	for _, test := range []struct {
		line string
		want count
	}{
		{"", count{}},
		{"What it is, somewhat", count{words: 4, what: 1}},
		{"nobody mended the mender", count{words: 4, dialect: 2}},
		{"it goes on beside its neighbour's", count{words: 6, dialect: 3}},
		{"besides, it said 12 things", count{words: 4, dialect: 1}},
	} {
		if got := countLine(test.line); got != test.want {
			t.Errorf("countLine(%q) is %+v, want %+v", test.line, got, test.want)
		}
	}
}

func TestLimits(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"a/a.go": "package a /* one two what nobody */\n", "b.md": "one two three\n", "ignored/c.md": "what\n", ".gitignore": "ignored\n",
	} {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("git", "-C", root, "init", "-q").CombinedOutput(); err != nil {
		t.Fatalf("git init: %v: %s", err, out)
	}
	for _, test := range []struct {
		args string
		ok   bool
	}{
		{"", false},
		{"-max-what 250 -max-dialect 250", true},
		{"-max-what 249 -max-dialect 250", false},
		{"-max-what 250 -max-dialect 249", false},
		{"b.md", true},
		{"./a", false},
		{"c", true},
	} {
		var out strings.Builder
		ok, err := run(&out, root, strings.Fields(test.args))
		if err != nil || ok != test.ok {
			t.Errorf("prose %s: ok is %v, want %v (error: %v)\n%s", test.args, ok, test.ok, err, &out)
		}
	}
	var out strings.Builder
	if _, err := run(&out, root, []string{"-list"}); err != nil || !strings.Contains(out.String(), "a/a.go:1: one two what nobody\n") {
		t.Errorf("prose -list does not print a/a.go:1 (error: %v):\n%s", err, &out)
	}
	if _, err := run(&out, t.TempDir(), nil); err == nil {
		t.Error("prose outside of a checkout: want an error")
	}
}
