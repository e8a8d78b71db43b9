// Package e2e runs the real router binary in network namespaces, with a control server with
// DERP, moto_server as AWS, a VPC with services, and an unmodified Tailscale client of the
// same version, or with E2E_CLIENT=older, of the release before.
//
// HEADSCALE=/path/to/headscale (0.26 or later) replaces the control server by that program.
// Tests that need features that it lacks are then skipped, with the reason; docs/headscale.md
// has the results.
package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"subnetrouter/internal/netnstest"
	"subnetrouter/internal/tailnettest/stock"
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

// buildBinaries builds the router, as shipped, and tailscaled with its CLI.
func buildBinaries(dir string) error {
	// A variable names another binary to test, such as one with the race detector.
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
	// The image's second name for the binary, in a folder without the real CLI.
	if err := os.Mkdir(filepath.Join(dir, "image"), 0o755); err != nil {
		return err
	}
	if err := os.Symlink("../router", filepath.Join(dir, "image", "tailscale")); err != nil {
		return err
	}
	buildPebble(dir)
	// Another variable names a folder with other builds of tailscaled and tailscale.
	if other := os.Getenv("E2E_STOCK"); other != "" {
		for _, name := range []string{"tailscaled", "tailscale"} {
			if err := os.Symlink(filepath.Join(other, name), filepath.Join(dir, name)); err != nil {
				return err
			}
		}
		return os.Chmod(dir, 0o755)
	}
	version := stock.Version(os.Getenv("E2E_CLIENT"))
	if err := stock.Build(context.Background(), "../..", version, dir, "tailscaled", "tailscale"); err != nil {
		return err
	}
	// The unprivileged router must be able to run it.
	return os.Chmod(dir, 0o755)
}

func binary(name string) string { return filepath.Join(os.Getenv(binariesVar), name) }
