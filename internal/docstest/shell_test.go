package docstest_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../.."

// shellBlocks returns the shell blocks of all documents, by file and line.
func shellBlocks(t *testing.T) map[string]string {
	t.Helper()
	fence := regexp.MustCompile("(?ms)^( *)```(?:sh|bash|shell|console|zsh)\n(.*?)^ *```")
	out := map[string]string{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == ".git" || entry.Name() == "dist" || entry.Name() == "node_modules") {
			return filepath.SkipDir
		}
		if filepath.Ext(path) != ".md" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range fence.FindAllSubmatchIndex(text, -1) {
			line := 2 + bytes.Count(text[:m[0]], []byte("\n"))
			indent := string(text[m[2]:m[3]])
			block := strings.ReplaceAll("\n"+string(text[m[4]:m[5]]), "\n"+indent, "\n")
			out[fmt.Sprintf("%s:%d", strings.TrimPrefix(path, root+"/"), line)] = strings.TrimPrefix(block, "\n")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 20 {
		t.Fatalf("%d shell blocks in all documents", len(out))
	}
	return out
}

// TestShellBlocks: each shell block of a document can be pasted into zsh, the default shell of
// macOS, and into sh. An interactive zsh takes the words of a comment as arguments: with
// `make push   # TAGS="1.2.3 latest"` it would push these tags.
func TestShellBlocks(t *testing.T) {
	zsh, err := exec.LookPath("zsh")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("no zsh: run scripts/tools")
		}
		t.Skip("no zsh: run scripts/tools")
	}
	for where, block := range shellBlocks(t) {
		for _, problem := range comments(block) {
			t.Errorf("%s: %s", where, problem)
		}
		// -n parses only; without interactive comments, as at a prompt.
		for _, shell := range [][]string{{zsh, "-f", "-n", "+o", "interactive_comments"}, {"sh", "-n"}} {
			cmd := exec.Command(shell[0], shell[1:]...)
			cmd.Stdin = strings.NewReader(block)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %s: %v: %s\n%s", where, filepath.Base(shell[0]), err, out, block)
			}
		}
	}
}

// comments returns the lines with a comment: a # at the start of a word, outside of quotes.
func comments(block string) (out []string) {
	var quote rune
	before := '\n'
	line := 1
	for _, r := range block {
		switch {
		case quote != 0:
			if r == quote && before != '\\' {
				quote = 0
			}
		case r == '\'' || r == '"':
			quote = r
		case r == '#' && strings.ContainsRune(" \t\n", before):
			out = append(out, fmt.Sprintf("line %d has a comment", line))
		}
		if r == '\n' {
			line++
		}
		before = r
	}
	return out
}

func TestComments(t *testing.T) {
	for block, want := range map[string]int{
		"make push   # TAGS=1\n":                1,
		"# a comment\nmake\n":                   1,
		"echo '# no comment' \"# none\"\n":      0,
		"echo a#b $# ${#x}\n":                   0,
		"echo \"a\n# inside\" # outside\n":      1,
		"aws x --overrides '{\"a\": \"#b\"}'\n": 0,
	} {
		if got := len(comments(block)); got != want {
			t.Errorf("%q has %d comments, want %d", block, got, want)
		}
	}
}

// TestNoPlaceholdersInBlocks: a placeholder is a word in capitals, which a shell passes on. The
// shell interprets < and > of <NAME> as redirections, and an ellipsis is invisible in a font.
func TestNoPlaceholdersInBlocks(t *testing.T) {
	placeholder := regexp.MustCompile(`<[a-zA-Z_-]+>|…`)
	for where, block := range shellBlocks(t) {
		if found := placeholder.FindString(block); found != "" {
			t.Errorf("%s has the placeholder %s: use a word in capitals\n%s", where, found, block)
		}
	}
}
