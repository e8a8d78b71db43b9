package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// machineFacts returns the lines above the table. Absolute figures mean nothing without
// them; ratios are comparable between machines.
func machineFacts(ctx context.Context, o options) []string {
	facts := []string{
		"Date: " + time.Now().UTC().Format("2006-01-02 15:04 MST"),
		fmt.Sprintf("CPU: %s, %d cores", lineAfter("/proc/cpuinfo", "model name"), runtime.NumCPU()),
		"Memory: " + lineAfter("/proc/meminfo", "MemTotal"),
		"Kernel: " + fileText("/proc/sys/kernel/osrelease"),
		"Largest socket buffers: net.core.rmem_max " + fileText("/proc/sys/net/core/rmem_max") + ", wmem_max " + fileText("/proc/sys/net/core/wmem_max"),
		fmt.Sprintf("Go: %s; tailscale.com: %s; this module: %s", runtime.Version(),
			commandOutput(ctx, "go", "list", "-m", "-f", "{{.Version}}", "tailscale.com"), commandOutput(ctx, "git", "describe", "--always", "--dirty")),
		fmt.Sprintf("Limit of open files: %d", o.files),
		"Load before the run: " + fileText("/proc/loadavg"),
	}
	if o.limits != (limits{}) {
		facts = append(facts, "Every router in a cgroup of "+o.limits.String())
	}
	if o.stock != "" {
		version, _, _ := strings.Cut(commandOutput(ctx, filepath.Join(o.stock, "tailscaled"), "--version"), "\n")
		facts = append(facts, otherStock+": the official image's programs of version "+version)
	}
	if o.router != "" {
		facts = append(facts, "The router is a binary given with -router")
	}
	return facts
}

func lineAfter(file, key string) string {
	for line := range strings.Lines(fileText(file)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == key {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

func fileText(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}

func commandOutput(ctx context.Context, name string, args ...string) string {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
