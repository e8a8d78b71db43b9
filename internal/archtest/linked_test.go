package archtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"subnetrouter/internal/tailnettest/stock"
)

// notLinked lists packages that the binary must not link with the tags of build/tags, and why.
var notLinked = map[string]string{
	"text/template":                   "it calls methods by name, so the linker has to keep every exported method of every type: tens of megabytes",
	"html/template":                   "it links text/template",
	"net/http/httptest":               "the product must not contain code for tests",
	"plugin":                          "the linker then keeps everything",
	"tailscale.com/wgengine/netstack": "it does not compile with the gVisor revision of go.mod; internal/forward serves the node's own addresses",
	"tailscale.com/tstest/integration/testcontrol": "the product must not contain code for tests",
	"subnetrouter/cmd/sandbox/sandboxed":           "it replaces the VPC by a simulated one; only the sandbox builds with it",
}

// linked lists packages that the binary must link although our code does not call them, and why.
var linked = map[string]string{
	"tailscale.com/feature/c2n": "control probes the routers of a route through it before it chooses one",
}

func TestLinked(t *testing.T) {
	deps, err := golist("-deps", "-tags", tags(t), "./cmd/router")
	if err != nil {
		t.Fatal(err)
	}
	has := func(path string) bool {
		return slices.ContainsFunc(deps, func(p pkg) bool { return p.ImportPath == path })
	}
	for path, reason := range notLinked {
		if !has(path) {
			continue
		}
		t.Errorf("cmd/router links %s: %s", path, reason)
		for _, p := range deps {
			if slices.Contains(p.Imports, path) {
				t.Logf("%s is imported by %s", path, p.ImportPath)
			}
		}
	}
	for path, reason := range linked {
		if !has(path) {
			t.Errorf("cmd/router does not link %s: %s", path, reason)
		}
	}
}

// TestNotices: THIRD_PARTY_NOTICES covers every module that the binary links.
func TestNotices(t *testing.T) {
	check := exec.Command("go", "run", "./scripts/notices", "-check", "-tags", tags(t), "./cmd/router", "THIRD_PARTY_NOTICES")
	check.Dir = root
	check.Env = plainEnv()
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("%s", out)
	}
}

// TestVersions: the Dockerfile builds with the Go version of go.mod.
func TestVersions(t *testing.T) {
	line := func(file, prefix string) string {
		text, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		for l := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(l, prefix); ok {
				return strings.TrimSpace(rest)
			}
		}
		t.Fatalf("%s has no line %q", file, prefix)
		return ""
	}
	want, image := line("go.mod", "go "), line("Dockerfile", "ARG GO_IMAGE=golang:")
	if want != image && !strings.HasPrefix(want, image+".") {
		t.Errorf("go.mod requires Go %s, but the Dockerfile builds with %s", want, image)
	}
}

// tags returns the build tags of the shipped binary.
func tags(t *testing.T) string {
	t.Helper()
	list, err := stock.Tags(root)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(list, ",")
}
