// Package archtest holds the rules of the architecture as tests: which packages may import
// which, may read the environment or open listeners, and which ones the binary links.
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

// rule allows an import only to some of the module's packages.
type rule struct {
	name    string // of the import, for messages
	forbids func(imp string) bool
	allowed []string // packages, as patterns of path.Match
	tests   bool     // also allow it to all _test files
	reason  string
}

var rules = []rule{
	{
		name: "the AWS SDK", forbids: below("github.com/aws"), tests: true,
		allowed: []string{"internal/awsapi", "internal/awstest"},
		reason:  "its types and errors stay behind typed clients, whose errors name the missing permission",
	},
	{
		name: "tailscale.com", forbids: below("tailscale.com"), tests: true,
		allowed: []string{"internal/tailnet", "internal/tailnettest", "internal/tailnettest/*", "cmd/sandbox", "cmd/sandbox/*", "test/image/world"},
		reason:  "its API is not stable: a new version must change only one package and its test helper",
	},
	{
		name: "the DNS library", forbids: below("github.com/miekg/dns"),
		allowed: []string{"internal/dns"},
		reason:  "a successor will replace it (docs/decisions/0013-dns.md)",
	},
	{
		name: "a test helper", forbids: testHelper,
		allowed: []string{"internal/*test", "internal/testwait", "internal/simnet", "internal/simnet/*", "internal/*test/*", "internal/*test/*/*", "cmd/sandbox", "bench", "test/*", "test/*/*"}, tests: true,
		reason: "the product must not contain test doubles",
	},
	{
		name: "a part of a command", forbids: below("subnetrouter/cmd"),
		allowed: []string{"cmd/*", "cmd/*/*"},
		reason:  "nothing builds on a command; code that two commands need gets a package of its own",
	},
}

// pure lists the packages that may import only the standard library and the listed
// packages.
var pure = map[string][]string{
	"internal/routes":         {},
	"internal/backoff":        {},
	"internal/memo":           {},
	"internal/acceptor":       {},
	"internal/duplex":         {},
	"internal/secret":         {},
	"internal/problem":        {},
	"internal/eventlog":       {},
	"internal/limits":         {},
	"internal/processors":     {},
	"internal/packet":         {},
	"internal/tcp":            {"subnetrouter/internal/tcp/congestion"},
	"internal/tcp/congestion": {},
	"internal/splitdns":       {},
	"internal/why":            {},
	"internal/certificate":    {"golang.org/x/crypto/acme"},
}

func below(prefix string) func(string) bool {
	return func(imp string) bool { return imp == prefix || strings.HasPrefix(imp, prefix+"/") }
}

func testHelper(imp string) bool {
	name, ours := strings.CutPrefix(imp, module+"internal/")
	top, _, _ := strings.Cut(name, "/")
	return ours && (strings.HasSuffix(top, "test") || top == "testwait" || top == "simnet")
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
					t.Errorf("%s imports %s; %s is for %s: %s", p.name(), imp, r.name, strings.Join(r.allowed, ", "), r.reason)
				}
			}
		}
		if more, listed := pure[p.name()]; listed {
			for _, imp := range p.Imports {
				if !standard(imp) && !slices.Contains(more, imp) {
					t.Errorf("%s imports %s; it may import only the standard library and %v", p.name(), imp, more)
				}
			}
		}
	}
}

// TestRulesBite fails if a rule names packages that do not exist or are not imported.
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
			t.Errorf("no package imports %s: the rule or its pattern is out of date", r.name)
		}
	}
	for name := range pure {
		if !slices.ContainsFunc(list, func(p pkg) bool { return p.name() == name }) {
			t.Errorf("package %s in pure does not exist", name)
		}
	}
}

func (r rule) mayImport(pkg string) bool {
	return slices.ContainsFunc(r.allowed, func(pattern string) bool {
		ok, _ := path.Match(pattern, pkg)
		return ok
	})
}

// standard reports whether imp is in the standard library: the first element of any other
// module except ours has a dot.
func standard(imp string) bool {
	first, _, _ := strings.Cut(imp, "/")
	return !strings.Contains(first, ".") && first+"/" != module
}

// pkg is a package in the output of `go list`.
type pkg struct {
	ImportPath, Dir                    string
	GoFiles                            []string
	Imports, TestImports, XTestImports []string
}

// name returns the package's folder, relative to the module's root.
func (p pkg) name() string { return strings.TrimPrefix(p.ImportPath, module) }

var listPackages = sync.OnceValues(func() ([]pkg, error) { return golist("./...") })

// packages returns the packages of the module.
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

// plainEnv returns the environment of `make build`, independent of this test's build.
func plainEnv() []string { return append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64") }
