package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"subnetrouter/cmd/sandbox/sandboxed"
)

// TestStepsFitTheTerminal: lines that have spaces fit into 80 columns, below each other.
func TestStepsFitTheTerminal(t *testing.T) {
	var out bytes.Buffer
	s := newShow(&out, false, 80)
	s.line("✓", "approval", strings.Repeat("10.0.0.0/16 ", 20), "the second line\nand its continuation")
	for line := range strings.Lines(out.String()) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, " \n")); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	if lines := strings.Split(out.String(), "\n"); len(lines) < 6 || !strings.HasPrefix(lines[1], strings.Repeat(" ", 27)+"10.0.0.0/16") {
		t.Errorf("not below each other:\n%s", out.String())
	}
}

// TestMakeSandboxNamesTheGoThatItNeeds: without Go, or with one that cannot download another,
// there is one line.
func TestMakeSandboxNamesTheGoThatItNeeds(t *testing.T) {
	for name, goProgram := range map[string]string{
		"none":    "",
		"too old": "#!/bin/sh\necho go1.19.8\n",
	} {
		bin := t.TempDir()
		for _, tool := range []string{"bash", "env", "dirname", "awk", "sort", "head", "sh"} {
			path, err := exec.LookPath(tool)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(path, filepath.Join(bin, tool)); err != nil {
				t.Fatal(err)
			}
		}
		if goProgram != "" {
			if err := os.WriteFile(filepath.Join(bin, "go"), []byte(goProgram), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.Command("../../scripts/sandbox", "--once")
		cmd.Env = []string{"PATH=" + bin}
		out, err := cmd.CombinedOutput()
		if err == nil || strings.Count(string(out), "\n") != 1 || !strings.HasPrefix(string(out), "sandbox: needs Go 1.") {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
}

// TestCommandsOfTheSandbox: the written programs pass their arguments on, and quote values.
func TestCommandsOfTheSandbox(t *testing.T) {
	dir := t.TempDir()
	binary := filepath.Join(dir, "fake")
	if err := os.WriteFile(binary, []byte("#!/bin/sh\nprintf '%s|' \"${0##*/}\" \"$NAME$"+sandboxed.Variable+"\" \"$@\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := writeCommands(dir, binary, "/s o", []string{"NAME=it's $HOME", sandboxed.Variable + "=ends with standard input"}); err != nil {
		t.Fatal(err)
	}
	for command, want := range map[string]string{"router": "fake|it's $HOME|status|a b|", "tailscale": "tailscale||--socket=/s o|status|a b|"} {
		out, err := exec.Command(filepath.Join(dir, command), "status", "a b").CombinedOutput()
		if err != nil || string(out) != want {
			t.Errorf("%s: %v, %q, want %q", command, err, out, want)
		}
	}
}
