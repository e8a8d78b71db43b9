package main

import (
	"bytes"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func completion(t *testing.T, shell string) string {
	t.Helper()
	var out, errs bytes.Buffer
	if code := dispatch(invocation{args: []string{"router", "completion", shell}, out: &out, err: &errs}); code != exitOK {
		t.Fatalf("%s: exit code %d: %s", shell, code, errs.String())
	}
	return out.String()
}

// TestBashCompletion types command lines in a real bash.
func TestBashCompletion(t *testing.T) {
	script := completion(t, "bash")
	for _, c := range []struct {
		words string // the last one is completed
		want  []string
		not   []string
	}{
		{"router pl", []string{"plan"}, []string{"doctor"}},
		{"router ''", []string{"run", "plan", "doctor", "status", "healthcheck", "version", "completion", "help", "--version"}, nil},
		{"router plan --k", []string{"--kms-key"}, []string{"--json"}},
		{"router plan --rou", []string{"--routes="}, nil},
		{"router healthcheck --", []string{"--ready", "--started"}, []string{"--iam"}},
		{"router help he", []string{"healthcheck"}, nil},
		{"router completion ''", []string{"bash", "zsh", "fish"}, []string{"--routes="}},
	} {
		bash := exec.Command("bash", "--norc", "-c", script+`
COMP_WORDS=(`+c.words+`) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_router; printf '%s\n' "${COMPREPLY[@]}"`)
		out, err := bash.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", c.words, err, out)
		}
		got := strings.Fields(string(out))
		for _, want := range c.want {
			if !slices.Contains(got, want) {
				t.Errorf("%s: %q lacks %s", c.words, got, want)
			}
		}
		for _, not := range c.not {
			if slices.Contains(got, not) {
				t.Errorf("%s: %q has %s", c.words, got, not)
			}
		}
	}
}

// TestCompletionScripts: each script parses where its shell is installed, and knows every
// command.
func TestCompletionScripts(t *testing.T) {
	for _, shell := range completionShells {
		script := completion(t, shell)
		for _, c := range commands() {
			if !strings.Contains(script, c.name) {
				t.Errorf("%s lacks %s", shell, c.name)
			}
		}
		if path, err := exec.LookPath(shell); err == nil {
			check := exec.Command(path, "-n")
			check.Stdin = strings.NewReader(script)
			if out, err := check.CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", shell, err, out)
			}
		}
	}
	var errs bytes.Buffer
	if code := dispatch(invocation{args: []string{"router", "completion"}, err: &errs}); code != exitConfig || !strings.Contains(errs.String(), "bash, zsh, fish") {
		t.Errorf("without a shell: exit code %d, %s", code, errs.String())
	}
}
