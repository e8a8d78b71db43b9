// Package binary tests every supported build of the router, and its size. Each build
// compiles the engine's module graph; internal/archtest, which runs under the race
// detector, only reads the graph.
package binary

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const root = "../.."

// maxBinary is the size budget of the stripped static binary, in bytes.
const maxBinary = 34_000_000

func TestBinary(t *testing.T) {
	shipped := func(output string) *exec.Cmd { return exec.Command("scripts/build", output) }
	plain := func(output string) *exec.Cmd {
		return exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", output, "./cmd/router")
	}
	for _, c := range []struct {
		name, arch string
		build      func(output string) *exec.Cmd
		most       int64  // bytes; 0: no budget
		without    string // a module that must not be linked
	}{
		{"as shipped", "amd64", shipped, maxBinary, "gvisor.dev/gvisor"},
		{"as shipped for arm64", "arm64", shipped, maxBinary, "gvisor.dev/gvisor"},
		{"without tags", "amd64", plain, 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			binary := filepath.Join(t.TempDir(), "router")
			build := c.build(binary)
			build.Dir = root
			build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+c.arch)
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			info, err := os.Stat(binary)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d bytes", info.Size())
			if linked, err := exec.Command("go", "version", "-m", binary).Output(); err != nil || c.without != "" && strings.Contains(string(linked), "\t"+c.without+"\t") {
				t.Errorf("%s is linked (%v)", c.without, err)
			}
			if c.most > 0 && info.Size() > c.most {
				t.Errorf("the binary has %d bytes, more than %d; find the cause with `go tool nm -size -sort size` on an unstripped binary", info.Size(), c.most)
			}
		})
	}
}
