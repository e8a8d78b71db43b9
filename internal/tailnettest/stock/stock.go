// Package stock builds and runs the programs of Tailscale that the router is tested with and
// compared to: tailscaled, tailscale and containerboot.
package stock

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Version selects the release of Tailscale that the programs are built from.
type Version string

// The versions.
const (
	// Current is the version in the module's go.mod, which the router embeds.
	Current Version = ""
	// Older is the version in testdata/older/go.mod, which many clients still have.
	Older Version = "older"
)

// Build builds programs of Tailscale ("tailscaled") into a folder of the same names, as in the
// official image: without cgo. It needs the go command, and the module at root, a folder of this
// checkout.
func Build(ctx context.Context, root string, v Version, folder string, programs ...string) error {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return fmt.Errorf("building stock programs: %w", err)
	}
	args := []string{"build", "-trimpath", "-buildvcs=false"}
	switch v {
	case Current:
		module, err := os.MkdirTemp("", "stock-")
		if err != nil {
			return fmt.Errorf("building stock programs: %w", err)
		}
		defer os.RemoveAll(module)
		flags, err := currentFlags(ctx, root, module)
		if err != nil {
			return fmt.Errorf("building stock programs: %w", err)
		}
		args = append(args, flags...)
	case Older:
		root = filepath.Join(root, "internal/tailnettest/stock/testdata/older")
	default:
		return fmt.Errorf("building stock programs: version %q is not known: use %q or %q", v, Current, Older)
	}
	for _, name := range programs {
		cmd := exec.CommandContext(ctx, "go", append(slices.Clip(args), "-o", filepath.Join(folder, name), "tailscale.com/cmd/"+name)...)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("building stock %s: %w\n%s", name, err, out)
		}
	}
	return nil
}

// newerThanPin is the only line of wgengine/netstack that does not compile with the gVisor
// revision that go.mod replaces Tailscale's by. It has an effect on Windows only.
const newerThanPin = "opts.ClockResolution = 500 * time.Microsecond"

// currentFlags returns the flags of `go build` for the programs of go.mod's version. The router
// does not link netstack; the stock programs do, and are built from a copy of the published module
// without the line newerThanPin, which it puts into folder. They lack the SSH server, whose pinned
// dependency is not served everywhere.
func currentFlags(ctx context.Context, root, folder string) ([]string, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "tailscale.com")
	cmd.Dir = root
	dir, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("finding module tailscale.com: %w", err)
	}
	module := filepath.Join(folder, "tailscale.com")
	if err := os.CopyFS(module, os.DirFS(strings.TrimSpace(string(dir)))); err != nil {
		return nil, fmt.Errorf("copying module tailscale.com: %w", err)
	}
	netstack := filepath.Join(module, "wgengine/netstack/netstack.go")
	source, err := os.ReadFile(netstack)
	if err != nil {
		return nil, fmt.Errorf("reading netstack: %w", err)
	}
	if err := os.WriteFile(netstack, []byte(strings.Replace(string(source), newerThanPin, "", 1)), 0o600); err != nil {
		return nil, fmt.Errorf("writing netstack: %w", err)
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return nil, fmt.Errorf("reading the module's files: %w", err)
		}
		if name == "go.mod" {
			text = append(text, "\nreplace tailscale.com => "+module+"\n"...)
		}
		if err := os.WriteFile(filepath.Join(folder, name), text, 0o600); err != nil {
			return nil, fmt.Errorf("writing the module's files: %w", err)
		}
	}
	return []string{"-tags=ts_omit_ssh", "-modfile=" + filepath.Join(folder, "go.mod")}, nil
}
