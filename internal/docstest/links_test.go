package docstest_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)|(?:src|href)="([^"]+)"`)
	fences  = regexp.MustCompile("(?ms)^ *```.*?^ *```")
	heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
	inTitle = regexp.MustCompile("[^a-z0-9 _-]")
)

// TestLinks: each relative link of a document leads to a file or folder of the repository, and
// to a heading of it if it names one.
func TestLinks(t *testing.T) {
	links := 0
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == ".git" || entry.Name() == "dist") {
			return filepath.SkipDir
		}
		if filepath.Ext(path) != ".md" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range link.FindAllStringSubmatch(fences.ReplaceAllString(string(text), ""), -1) {
			target := m[1] + m[2]
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			links++
			file, anchor, _ := strings.Cut(target, "#")
			to := path
			if file != "" {
				to = filepath.Join(filepath.Dir(path), file)
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s links to %s, which does not exist", path, target)
				continue
			}
			if anchor != "" && filepath.Ext(to) == ".md" && !slices.Contains(anchorsOf(t, to), anchor) {
				t.Errorf("%s links to %s, which has no such heading", path, target)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if links < 100 {
		t.Errorf("%d links in all documents", links)
	}
}

// TestHome: documents, alerts and the module's address name the repository as build/home does.
func TestHome(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "build/home"))
	if err != nil {
		t.Fatal(err)
	}
	home := strings.TrimPrefix(strings.TrimSpace(string(text)), "https://")
	address := regexp.MustCompile(`github\.com/[\w.-]+/subnetrouter`)
	found := 0
	for _, file := range []string{"README.md", "docs/getting-started.md", "deploy/prometheus/subnetrouter.rules.yml"} {
		text, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		for _, got := range address.FindAllString(string(text), -1) {
			if found++; got != home {
				t.Errorf("%s names %s, but build/home is %s", file, got, home)
			}
		}
	}
	if found < 10 {
		t.Errorf("%d addresses of the repository", found)
	}
}

// anchorsOf returns the anchors of the headings of a document, as GitHub generates them.
func anchorsOf(t *testing.T, file string) (out []string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range heading.FindAllStringSubmatch(fences.ReplaceAllString(string(text), ""), -1) {
		title := regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`).ReplaceAllString(m[1], "$1")
		out = append(out, strings.ReplaceAll(inTitle.ReplaceAllString(strings.ToLower(title), ""), " ", "-"))
	}
	return out
}
