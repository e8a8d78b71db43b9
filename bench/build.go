package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	stockprograms "subnetrouter/internal/tailnettest/stock"
)

// stockPrograms are the programs of the official image.
var stockPrograms = []string{"containerboot", "tailscaled", "tailscale"}

// buildBinaries returns a folder with the router (built with the release's tags, or
// the given binary), the router and stock programs to compare with, if any are given,
// and the stock programs at the version in go.mod. It builds them in a folder of the
// user's cache, one per checkout, and copies them to a folder that an unprivileged user
// can read.
func buildBinaries(ctx context.Context, s *scope, o options, logf func(string, ...any)) (string, error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return "", err
	}
	dir, err := sharedDir(s)
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	built := dir
	if cache, err := os.UserCacheDir(); err == nil {
		built = filepath.Join(cache, "subnetrouter-bench", fmt.Sprintf("%x", sha256.Sum256([]byte(root)))[:12])
	}
	if err := os.MkdirAll(built, 0o755); err != nil {
		return "", fmt.Errorf("building: %w", err)
	}
	take := map[string]string{"router": o.router}
	if o.router == "" {
		tags, err := stockprograms.Tags(root)
		if err != nil {
			return "", fmt.Errorf("building: %w", err)
		}
		logf("building the router")
		take["router"] = filepath.Join(built, "router")
		err = goBuild(ctx, root, take["router"], "./cmd/router", "-tags", strings.Join(tags, ","), "-ldflags=-s -w")
		if err != nil {
			return "", err
		}
	}
	if o.against != "" {
		take["against"] = o.against
	}
	if o.stock != "" {
		if err := os.Mkdir(filepath.Join(dir, otherStock), 0o755); err != nil {
			return "", fmt.Errorf("copying a program: %w", err)
		}
		for _, name := range stockPrograms {
			take[filepath.Join(otherStock, name)] = filepath.Join(o.stock, name)
		}
	}
	for _, name := range stockPrograms {
		logf("building %s", name)
		take[name] = filepath.Join(built, name)
		if err := stockprograms.Build(ctx, root, stockprograms.Current, built, name); err != nil {
			return "", err
		}
	}
	for name, from := range take {
		if err := copyProgram(from, filepath.Join(dir, name)); err != nil {
			return "", err
		}
	}
	return dir, nil
}

func goBuild(ctx context.Context, root, out, pkg string, flags ...string) error {
	args := append([]string{"build", "-trimpath", "-buildvcs=false", "-o", out}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, pkg)...)
	cmd.Dir = root
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0") // as in the images
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w\n%s", pkg, err, text)
	}
	return nil
}

func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("finding the module with go env: %w", err)
	}
	mod := strings.TrimSpace(string(out))
	if mod == "" || mod == os.DevNull {
		return "", errors.New("finding the module: not inside a checkout; run bench from one")
	}
	return filepath.Dir(mod), nil
}

func copyProgram(from, to string) error {
	if from == to {
		return nil
	}
	src, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("copying a program: %w", err)
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return fmt.Errorf("copying a program: %w", err)
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}
