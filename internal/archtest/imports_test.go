// Package archtest holds the rules of the architecture as tests: who may import
// whom, who may read the environment, and what the binary links.
package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
)

const (
	root   = "../.."
	module = "subnetrouter/"
)

// rule forbids an import to all of the module's packages but a few.
type rule struct {
	what    string // what is forbidden, in words
	forbids func(imp string) bool
	allowed []string // patterns of path.Match, for packages that may
	tests   bool     // whether all _test files may too
	reason  string
}

var rules = []rule{
	{
		what: "the AWS SDK", forbids: below("github.com/aws"), tests: true,
		allowed: []string{"internal/awsapi", "internal/awstest"},
		reason:  "its types and its errors stay behind typed clients, which say which permission is missing",
	},
	{
		what: "tailscale.com", forbids: below("tailscale.com"), tests: true,
		allowed: []string{"internal/tailnet", "internal/tailnettest", "internal/tailnettest/*", "cmd/sandbox", "cmd/sandbox/*", "test/image/world"},
		reason:  "its API promises nothing: a new version is a change of one package and its test helper",
	},
	{
		what: "a test helper", forbids: testHelper,
		allowed: []string{"internal/*test", "internal/testwait", "internal/*test/*", "internal/*test/*/*", "cmd/sandbox", "bench", "test/*", "test/*/*"}, tests: true,
		reason: "what ships holds nothing that only pretends",
	},
	{
		what: "a part of a command", forbids: below("subnetrouter/cmd"),
		allowed: []string{"cmd/*", "cmd/*/*"},
		reason:  "a command is the end of the line; what two need is a package of its own",
	},
}

// only lists packages that may import nothing but the standard library and what
// is named.
var only = map[string][]string{
	"internal/routes":     {},
	"internal/secret":     {},
	"internal/eventlog":   {},
	"internal/limits":     {},
	"internal/processors": {},
}

func below(prefix string) func(string) bool {
	return func(imp string) bool { return imp == prefix || strings.HasPrefix(imp, prefix+"/") }
}

func testHelper(imp string) bool {
	name, ours := strings.CutPrefix(imp, module+"internal/")
	top, _, _ := strings.Cut(name, "/")
	return ours && (strings.HasSuffix(top, "test") || top == "testwait")
}

func TestImports(t *testing.T) {
	for _, p := range packages(t) {
		for _, r := range rules {
			if r.mayImport(p.name()) {
				continue
			}
			imports := p.Imports
			if !r.tests {
				imports = slices.Concat(p.Imports, p.TestImports, p.XTestImports)
			}
			for _, imp := range imports {
				if r.forbids(imp) {
					t.Errorf("%s imports %s; %s is for %s: %s", p.name(), imp, r.what, strings.Join(r.allowed, ", "), r.reason)
				}
			}
		}
		if more, listed := only[p.name()]; listed {
			for _, imp := range p.Imports {
				if !standard(imp) && !slices.Contains(more, imp) {
					t.Errorf("%s imports %s; it is to stay with the standard library and %v, for it is pure", p.name(), imp, more)
				}
			}
		}
	}
}

// TestRulesBite keeps a rule from guarding a name that nothing has.
func TestRulesBite(t *testing.T) {
	list := packages(t)
	for _, r := range rules {
		users := 0
		for _, p := range list {
			if slices.ContainsFunc(p.Imports, r.forbids) {
				users++
			}
		}
		if users == 0 {
			t.Errorf("no package imports %s: the rule or its pattern is out of date", r.what)
		}
	}
	for name := range only {
		if !slices.ContainsFunc(list, func(p pkg) bool { return p.name() == name }) {
			t.Errorf("there is no package %s", name)
		}
	}
}

func (r rule) mayImport(pkg string) bool {
	return slices.ContainsFunc(r.allowed, func(pattern string) bool {
		ok, _ := path.Match(pattern, pkg)
		return ok
	})
}

// standard tells by the dot that all other modules' first element has, but for
// our own.
func standard(imp string) bool {
	first, _, _ := strings.Cut(imp, "/")
	return !strings.Contains(first, ".") && first+"/" != module
}

// pkg is one package as `go list` knows it.
type pkg struct {
	ImportPath, Dir                    string
	GoFiles                            []string
	Imports, TestImports, XTestImports []string
}

// name is the package's folder below the module's root.
func (p pkg) name() string { return strings.TrimPrefix(p.ImportPath, module) }

var listPackages = sync.OnceValues(func() ([]pkg, error) { return golist("./...") })

// packages lists the module's own.
func packages(t *testing.T) []pkg {
	t.Helper()
	list, err := listPackages()
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func golist(args ...string) ([]pkg, error) {
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Dir,GoFiles,Imports,TestImports,XTestImports"}, args...)...)
	cmd.Dir = root
	cmd.Env = plainEnv()
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("listing packages: %w", err)
	}
	var list []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); {
		var p pkg
		if err := dec.Decode(&p); err != nil {
			return nil, errors.Join(errors.New("reading the list of packages"), err)
		}
		list = append(list, p)
	}
	return list, nil
}

// plainEnv is how `make build` builds, whatever builds this test.
func plainEnv() []string { return append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64") }
