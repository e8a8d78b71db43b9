// Package e2e runs the real router binary in network namespaces: a control
// server with DERP, AWS as moto_server plays it, a VPC with services, and the
// stock Tailscale client of the same version, which knows nothing of us.
//
// HEADSCALE=/path/to/headscale (0.26 or later) puts that program in the control
// server's place. Tests that need what it cannot do are then skipped, with the
// reason; docs/headscale.md has the results.
package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"subnetrouter/internal/netnstest"
)

const binariesVar = "E2E_BINARIES"

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := netnstest.Main(m, func() ([]string, error) {
		return []string{binariesVar + "=" + dir}, buildBinaries(dir)
	})
	os.RemoveAll(dir)
	os.Exit(code)
}

// buildBinaries builds what is tested, as it is shipped, and the stock client.
func buildBinaries(dir string) error {
	// The tests may be told to run another binary, say with the race detector.
	if other := os.Getenv("E2E_ROUTER"); other != "" {
		if err := os.Symlink(other, filepath.Join(dir, "router")); err != nil {
			return err
		}
	} else {
		cmd := exec.Command("../../scripts/build", filepath.Join(dir, "router"))
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("building router: %w\n%s", err, out)
		}
	}
	// The image's other name for the same binary, apart from the stock one.
	if err := os.Mkdir(filepath.Join(dir, "image"), 0o755); err != nil {
		return err
	}
	if err := os.Symlink("../router", filepath.Join(dir, "image", "tailscale")); err != nil {
		return err
	}
	for _, name := range []string{"tailscaled", "tailscale"} {
		if err := goBuild(dir, name, "tailscale.com/cmd/"+name); err != nil {
			return err
		}
	}
	// The unprivileged router must be able to run it.
	return os.Chmod(dir, 0o755)
}

func goBuild(dir, name string, args ...string) error {
	cmd := exec.Command("go", append([]string{"build", "-o", filepath.Join(dir, name)}, args...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w\n%s", name, err, out)
	}
	return nil
}

func binary(name string) string { return filepath.Join(os.Getenv(binariesVar), name) }
