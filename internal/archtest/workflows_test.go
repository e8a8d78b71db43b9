package archtest

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v2"
)

// workflow is the part of a workflow or of an action that the rules are about.
type workflow struct {
	Permissions any
	Jobs        map[string]job
	Runs        job // of an action
}

type job struct {
	Uses  string
	Steps []struct{ Uses, Run string }
}

// TestWorkflows holds workflows to the rules that keep a foreign action or a pull request
// from running code with this repository's rights.
func TestWorkflows(t *testing.T) {
	var (
		pinned  = regexp.MustCompile(`^[^@]+@[0-9a-f]{40}$`)
		version = regexp.MustCompile(`uses: (\S+)(?: # (v\d+\.\d+\.\d+))?\n`)
		pins    = map[string]string{} // action: its revision and version
		all     string
	)
	for _, file := range githubFiles(t, "workflows/*.yml", "actions/*/action.yml") {
		text := readFile(t, file)
		all += text
		var w workflow
		if err := yaml.Unmarshal([]byte(text), &w); err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if strings.Contains(file, "workflows") && w.Permissions == nil {
			t.Errorf("%s: no permissions: name the least that its jobs need", file)
		}
		if strings.Contains(text, "secrets.") {
			t.Errorf("%s reads a secret: the platform's token is github.token", file)
		}
		jobs := []job{w.Runs}
		for _, j := range w.Jobs {
			jobs = append(jobs, j)
		}
		steps := 0
		for _, j := range jobs {
			uses := []string{j.Uses}
			for _, s := range j.Steps {
				steps++
				uses = append(uses, s.Uses)
				if strings.Contains(s.Run, "${{") {
					t.Errorf("%s: an expression in a command is a part of the program: pass it in env: %s", file, s.Run)
				}
			}
			for _, use := range uses {
				if use != "" && !strings.HasPrefix(use, "./") && !pinned.MatchString(use) {
					t.Errorf("%s: %s can change: pin the full revision", file, use)
				}
			}
		}
		if steps == 0 {
			t.Errorf("%s has no steps: are its keys still these?", file)
		}
		for _, m := range version.FindAllStringSubmatch(text, -1) {
			name, revision, found := strings.Cut(m[1], "@")
			if !found {
				continue
			}
			if m[2] == "" {
				t.Errorf("%s: say in a comment which version %s is", file, m[1])
			}
			pin := revision + " " + m[2]
			if other := pins[name]; other != "" && other != pin {
				t.Errorf("%s: %s is pinned to %s, elsewhere to %s", file, name, pin, other)
			}
			pins[name] = pin
		}
	}
	for _, command := range []string{".ci/run", "make release ", "make vulncheck", "make newest-tailscale"} {
		if !strings.Contains(all, command) {
			t.Errorf("no workflow runs %s", command)
		}
	}
}

// TestTemplates: the other files of the platform can be read as such.
func TestTemplates(t *testing.T) {
	for _, file := range githubFiles(t, "*.yml", "ISSUE_TEMPLATE/*.yml") {
		var content map[string]any
		if err := yaml.Unmarshal([]byte(readFile(t, file)), &content); err != nil || len(content) == 0 {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// TestDependabot: each folder with dependencies is looked after.
func TestDependabot(t *testing.T) {
	var config struct {
		Updates []struct {
			Ecosystem   string `yaml:"package-ecosystem"`
			Directories []string
		}
	}
	if err := yaml.Unmarshal([]byte(readFile(t, filepath.Join(root, ".github/dependabot.yml"))), &config); err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	for _, u := range config.Updates {
		got[u.Ecosystem] = u.Directories
	}
	for ecosystem, file := range map[string]string{
		"gomod": "go.mod", "docker": "Dockerfile", "terraform": "versions.tf", "pip": "requirements.txt",
	} {
		var want []string
		for _, pattern := range []string{"", "*", "*/*", "*/*/*"} {
			files, err := filepath.Glob(filepath.Join(root, pattern, file))
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range files {
				if !strings.Contains(f, "testdata") {
					want = append(want, strings.TrimPrefix(filepath.ToSlash(filepath.Dir(f)), root))
				}
			}
		}
		for i := range want {
			want[i] = "/" + strings.TrimPrefix(want[i], "/")
		}
		slices.Sort(want)
		if !slices.Equal(got[ecosystem], want) {
			t.Errorf("%s looks after %q, want %q", ecosystem, got[ecosystem], want)
		}
	}
	if len(got["github-actions"]) == 0 {
		t.Error("nothing looks after the workflows")
	}
}

// githubFiles returns the files that match any of the patterns below .github.
func githubFiles(t *testing.T, patterns ...string) (files []string) {
	t.Helper()
	for _, pattern := range patterns {
		found, err := filepath.Glob(filepath.Join(root, ".github", pattern))
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(found), err)
		}
		files = append(files, found...)
	}
	return files
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
