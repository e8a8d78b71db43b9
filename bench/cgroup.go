package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// limits are those of a small task; zero means no limit.
type limits struct {
	cpus      float64
	memoryMiB int
}

// parseLimits parses "0.25cpu,512MiB"; either part may be missing.
func parseLimits(text string) (l limits, err error) {
	for part := range strings.SplitSeq(text, ",") {
		switch {
		case part == "":
		case strings.HasSuffix(part, "cpu"):
			l.cpus, err = strconv.ParseFloat(strings.TrimSuffix(part, "cpu"), 64)
		case strings.HasSuffix(part, "MiB"):
			l.memoryMiB, err = strconv.Atoi(strings.TrimSuffix(part, "MiB"))
		default:
			err = errors.New("want parts like 0.25cpu and 512MiB")
		}
		if err != nil {
			return l, fmt.Errorf("reading limits %q: %q: %w", text, part, err)
		}
	}
	return l, nil
}

func (l limits) String() string {
	var parts []string
	if l.cpus > 0 {
		parts = append(parts, fmt.Sprintf("%g vCPU", l.cpus))
	}
	if l.memoryMiB > 0 {
		parts = append(parts, fmt.Sprintf("%d MiB", l.memoryMiB))
	}
	return strings.Join(parts, ", ")
}

// A cgroup limits the processes that are started in it.
type cgroup struct{ dirs []string }

const cgroupRoot = "/sys/fs/cgroup"

// newCgroup creates a group, under cgroups of version 2 or 1, that s removes.
func newCgroup(s *scope, name string, l limits) (*cgroup, error) {
	g := &cgroup{}
	unified := false
	if b, err := os.ReadFile(filepath.Join(cgroupRoot, "cgroup.controllers")); err == nil {
		unified = strings.Contains(string(b), "memory")
	}
	const period = 100_000 // microseconds
	quota := strconv.Itoa(int(l.cpus * period))
	bytes := strconv.Itoa(l.memoryMiB << 20)
	add := func(controller string, files map[string]string) error {
		dir := filepath.Join(cgroupRoot, controller, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("making a cgroup: %w", err)
		}
		g.dirs = append(g.dirs, dir)
		s.Cleanup(func() { os.Remove(dir) })
		for file, value := range files {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0o644); err != nil {
				return fmt.Errorf("limiting a cgroup: %w", err)
			}
		}
		return nil
	}
	if unified {
		// A child has only the controllers that its parent enables. They may be enabled already.
		os.WriteFile(filepath.Join(cgroupRoot, "cgroup.subtree_control"), []byte("+cpu +memory"), 0o644)
		files := map[string]string{}
		if l.cpus > 0 {
			files["cpu.max"] = fmt.Sprintf("%s %d", quota, period)
		}
		if l.memoryMiB > 0 {
			files["memory.max"] = bytes
		}
		return g, add("", files)
	}
	if l.cpus > 0 {
		err := add("cpu", map[string]string{"cpu.cfs_period_us": strconv.Itoa(period), "cpu.cfs_quota_us": quota})
		if err != nil {
			return nil, err
		}
	}
	if l.memoryMiB > 0 {
		if err := add("memory", map[string]string{"memory.limit_in_bytes": bytes}); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// wrap returns a command that starts cmd in the group, if g is not nil, and with that
// limit of open files. The shell has to run before cmd: `ip netns exec` hides cgroups.
func (g *cgroup) wrap(cmd *exec.Cmd, files uint64) *exec.Cmd {
	var script strings.Builder
	script.WriteString(fmt.Sprintf("ulimit -n %d; ", files))
	if g != nil {
		for _, dir := range g.dirs {
			script.WriteString(fmt.Sprintf("echo $$ >'%s/cgroup.procs'; ", dir))
		}
	}
	wrapped := exec.Command("sh", append([]string{"-ec", script.String() + `exec "$@"`, "sh"}, cmd.Args...)...)
	wrapped.Env = cmd.Env
	return wrapped
}
