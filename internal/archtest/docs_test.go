package archtest

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestIndexes: docs/README.md lists every document, and docs/decisions/README.md every
// decision with its title and status.
func TestIndexes(t *testing.T) {
	for _, folder := range []string{"docs", "docs/decisions"} {
		index := readFile(t, filepath.Join(root, folder, "README.md"))
		files, err := filepath.Glob(filepath.Join(root, folder, "*.md"))
		if err != nil || len(files) < 5 {
			t.Fatalf("%s has %d documents, %v", folder, len(files), err)
		}
		for _, file := range files {
			name := filepath.Base(file)
			if name == "README.md" {
				continue
			}
			want := "](" + name + ") | "
			if folder == "docs/decisions" {
				number, _, _ := strings.Cut(name, "-")
				heading, _, _ := strings.Cut(readFile(t, file), "\n")
				want = "| [" + number + "](" + name + ") | " + strings.TrimPrefix(heading, "# "+number+": ") + " | "
			}
			if !strings.Contains(index, want) {
				t.Errorf("%s/README.md lacks %q", folder, want)
			}
		}
	}
}

// TestLinks: each relative link of a document leads to a file, and to a heading where it
// names one.
func TestLinks(t *testing.T) {
	var (
		link    = regexp.MustCompile(`\]\(([^)\s:]+)\)`)
		heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
		fenced  = regexp.MustCompile("(?ms)^```.*?^```")
		dropped = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
	)
	anchors := func(file string) map[string]bool {
		found := map[string]bool{}
		for _, m := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(readFile(t, file), ""), -1) {
			text := dropped.ReplaceAllString(strings.ToLower(m[1]), "")
			found[strings.ReplaceAll(text, " ", "-")] = true
		}
		return found
	}
	checked := 0
	for _, path := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(fenced.ReplaceAllString(readFile(t, path), ""), -1) {
			checked++
			target, anchor, _ := strings.Cut(m[1], "#")
			file := path
			if target != "" {
				file = filepath.Join(filepath.Dir(path), target)
			}
			info, err := os.Stat(file)
			if err != nil {
				t.Errorf("%s links to %s, which is not there", path, m[1])
				continue
			}
			if anchor != "" && !info.IsDir() && filepath.Ext(file) == ".md" && !anchors(file)[anchor] {
				t.Errorf("%s links to %s, which has no such heading", path, m[1])
			}
		}
	}
	if checked < 20 {
		t.Errorf("only %d links were found", checked)
	}
}

// TestPaths: each path of this repository that a document has between backticks exists.
func TestPaths(t *testing.T) {
	quoted := regexp.MustCompile("`((?:bench|build|cmd|deploy|docs|internal|scripts|test)/[A-Za-z0-9_./-]+)`")
	others := map[string]bool{"cmd/tailscaled": true} // of tailscale.com
	checked := 0
	for _, path := range documents(t) {
		for _, m := range quoted.FindAllStringSubmatch(readFile(t, path), -1) {
			checked++
			if _, err := os.Stat(filepath.Join(root, m[1])); err != nil && !others[m[1]] {
				t.Errorf("%s names `%s`, which does not exist", path, m[1])
			}
		}
	}
	if checked < 50 {
		t.Errorf("only %d paths were found", checked)
	}
}

// documents lists the Markdown files of the repository.
func documents(t *testing.T) (files []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && path != root && (entry.Name() == "testdata" || entry.Name() == "dist" || strings.HasPrefix(entry.Name(), ".") && entry.Name() != ".github") {
			return filepath.SkipDir
		}
		if filepath.Ext(path) == ".md" {
			files = append(files, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
