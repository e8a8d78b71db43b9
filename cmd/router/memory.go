package main

import (
	"log/slog"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
)

// memoryShare of the task's memory goes to the Go runtime as its soft limit; the
// rest is the kernel's, for sockets, and the runtime's own slack.
const memoryShare = 0.8

// cgroupLimits are where Linux says how much memory this container has, in
// version 2 and 1 of its control groups.
var cgroupLimits = []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}

// taskMemory is what the process may use, in bytes, as far as anything tells: what
// the task has, or GOMEMLIMIT.
var taskMemory atomic.Int64

// limitMemory tells the Go runtime what the task has: the smaller of what its
// control group and the task metadata (MiB, 0 is unknown) say. It reports false
// where nobody says anything, or GOMEMLIMIT does.
func limitMemory(taskMiB int, log *slog.Logger) bool {
	if os.Getenv("GOMEMLIMIT") != "" {
		taskMemory.Store(debug.SetMemoryLimit(-1))
		return false
	}
	limit, _ := memoryLimit(taskMiB)
	if limit == 0 {
		return false
	}
	taskMemory.Store(limit)
	soft := int64(float64(limit) * memoryShare)
	if debug.SetMemoryLimit(soft) == soft {
		return false
	}
	log.Info("memory limit set", "task_mib", limit>>20, "go_mib", soft>>20)
	return true
}

// memoryLimit is what the task has in bytes, and who says so; 0 where nobody does.
func memoryLimit(taskMiB int) (limit int64, source string) {
	if taskMiB > 0 {
		limit, source = int64(taskMiB)<<20, "task metadata"
	}
	for _, path := range cgroupLimits {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		// "max" in version 2, and a number beyond any machine in version 1, are none.
		n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		if err == nil && n < 1<<50 && (limit == 0 || n < limit) {
			limit, source = n, "the control group"
		}
	}
	return limit, source
}
