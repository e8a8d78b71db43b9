package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// machineFacts are the lines above the table: ratios travel, absolutes do not.
func machineFacts(ctx context.Context, o options) []string {
	facts := []string{
		"Date: " + time.Now().UTC().Format("2006-01-02 15:04 MST"),
		fmt.Sprintf("CPU: %s, %d cores", lineAfter("/proc/cpuinfo", "model name"), runtime.NumCPU()),
		"Memory: " + lineAfter("/proc/meminfo", "MemTotal"),
		"Kernel: " + fileText("/proc/sys/kernel/osrelease"),
		"Socket buffers at most: net.core.rmem_max " + fileText("/proc/sys/net/core/rmem_max") + ", wmem_max " + fileText("/proc/sys/net/core/wmem_max"),
		fmt.Sprintf("Go: %s; tailscale.com: %s; this module: %s", runtime.Version(),
			said(ctx, "go", "list", "-m", "-f", "{{.Version}}", "tailscale.com"), said(ctx, "git", "describe", "--always", "--dirty")),
		fmt.Sprintf("Open files at most: %d", o.files),
		"Load of the machine before: " + fileText("/proc/loadavg"),
	}
	if o.limits != (limits{}) {
		facts = append(facts, "Every router in a cgroup of "+o.limits.String())
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

func said(ctx context.Context, name string, args ...string) string {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
