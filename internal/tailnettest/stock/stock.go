// Package stock builds and runs the programs of Tailscale that the router is tested with and
// compared to: tailscaled, tailscale and containerboot.
package stock

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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
		overlay, err := os.MkdirTemp("", "overlay-")
		if err != nil {
			return fmt.Errorf("building stock programs: %w", err)
		}
		defer os.RemoveAll(overlay)
		flags, err := currentFlags(ctx, root, overlay)
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
		cmd := exec.CommandContext(ctx, "go", append(args[:len(args):len(args)], "-o", filepath.Join(folder, name), "tailscale.com/cmd/"+name)...)
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
// does not link netstack; the stock programs do, and are built from the published source without
// the line newerThanPin. They lack the SSH server, whose pinned dependency is not served
// everywhere.
func currentFlags(ctx context.Context, root, overlay string) ([]string, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "tailscale.com")
	cmd.Dir = root
	dir, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("finding module tailscale.com: %w", err)
	}
	name := filepath.Join(strings.TrimSpace(string(dir)), "wgengine/netstack/netstack.go")
	source, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("reading netstack: %w", err)
	}
	flags := []string{"-tags=ts_omit_ssh"}
	before, after, found := strings.Cut(string(source), newerThanPin)
	if !found {
		return flags, nil
	}
	changed := filepath.Join(overlay, "netstack.go")
	list, err := json.Marshal(map[string]map[string]string{"Replace": {name: changed}})
	return append(flags, "-overlay="+filepath.Join(overlay, "overlay.json")), errors.Join(err,
		os.WriteFile(changed, []byte(before+after), 0o600),
		os.WriteFile(filepath.Join(overlay, "overlay.json"), list, 0o600))
}
