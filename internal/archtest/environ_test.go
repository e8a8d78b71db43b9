package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// mayReadEnviron lists the packages besides commands that may read the environment, and why.
var mayReadEnviron = map[string]string{
	"internal/awstest":           "a test helper: CI=true makes a skip a failure, and moto_server inherits PATH",
	"internal/browsertest":       "a test helper: CI=true makes a skip a failure",
	"internal/netnstest":         "a test helper: CI=true makes a skip a failure, and commands inherit PATH",
	"internal/httpproxy":         "net/http reads the proxy from there, and an error names the variable in force",
	"internal/simnet":            "a test helper: SIMNET_SEED replays one simulation",
	"internal/tailnettest/stock": "tailscaled and go build inherit it",
	"internal/testwait":          "a test helper: CI=true makes waits longer",
	"scripts/notices":            "go list inherits it",
	"scripts/tally":              "go test inherits it",
	"scripts/typecheck":          "go list inherits it",
}

var environReaders = []string{"Getenv", "LookupEnv", "Environ", "ExpandEnv"}

// TestEnvironment: settings are read once, in one place, so that the documentation is
// complete and tests need no environment.
func TestEnvironment(t *testing.T) {
	used := map[string]bool{}
	for _, p := range packages(t) {
		if strings.HasPrefix(p.name(), "cmd/") {
			continue
		}
		for _, file := range p.GoFiles {
			for _, call := range environReads(t, filepath.Join(p.Dir, file)) {
				used[p.name()] = true
				if mayReadEnviron[p.name()] == "" {
					t.Errorf("%s/%s: %s: only commands read the environment; pass the value in", p.name(), file, call)
				}
			}
		}
	}
	for name := range mayReadEnviron {
		if !used[name] {
			t.Errorf("%s no longer reads the environment: remove it from mayReadEnviron", name)
		}
	}
}

func environReads(t *testing.T, file string) (calls []string) {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(parsed, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := s.X.(*ast.Ident); ok && x.Name == "os" && slices.Contains(environReaders, s.Sel.Name) {
				calls = append(calls, "os."+s.Sel.Name)
			}
		}
		return true
	})
	return calls
}
