package archtest

import (
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestImportTable compares the packages that each package of internal imports with the
// column "may import" of docs/architecture.md: all of a row's names in backticks, or none
// for "the standard library". Names are those of packages below internal; the last element
// is enough. Rows that begin with "all" or "tests" are left to the rules of TestImports.
func TestImportTable(t *testing.T) {
	var (
		row    = regexp.MustCompile("(?m)^\\| (`internal/[^|]*) \\|[^|]*\\| ([^|]*) \\|$")
		quoted = regexp.MustCompile("`([^`]*)`")
	)
	list := packages(t)
	described := map[string]bool{}
	for _, m := range row.FindAllStringSubmatch(readFile(t, filepath.Join(root, "docs/architecture.md")), -1) {
		var may []string
		for _, q := range quoted.FindAllStringSubmatch(m[2], -1) {
			may = append(may, path.Base(q[1]))
		}
		if strings.Contains(m[2], "the packages below") {
			may = append(may, "place", "iam", "identity", "credential", "routesource", "targets", "zones")
		}
		for _, q := range quoted.FindAllStringSubmatch(m[1], -1) {
			name := "internal/" + strings.TrimPrefix(q[1], "internal/")
			described[name] = true
			if strings.HasPrefix(m[2], "all") || strings.HasPrefix(m[2], "tests") {
				continue
			}
			i := slices.IndexFunc(list, func(p pkg) bool { return p.name() == name })
			if i < 0 {
				t.Errorf("docs/architecture.md describes %s, which does not exist", name)
				continue
			}
			for _, imp := range list[i].Imports {
				if strings.HasPrefix(imp, module) && !slices.Contains(may, path.Base(imp)) {
					t.Errorf("%s imports %s, which its row in docs/architecture.md does not have", name, imp)
				}
			}
			for _, m := range may {
				if !slices.ContainsFunc(list[i].Imports, func(imp string) bool { return strings.HasPrefix(imp, module) && path.Base(imp) == m }) {
					t.Errorf("docs/architecture.md lets %s import %s, which it does not", name, m)
				}
			}
		}
	}
	for _, p := range list {
		top := strings.HasPrefix(p.name(), "internal/") && len(p.GoFiles) > 0
		if parent := strings.Split(p.name(), "/"); top && !described[p.name()] && !described[strings.Join(parent[:2], "/")] {
			t.Errorf("docs/architecture.md has no row for %s", p.name())
		}
	}
}
