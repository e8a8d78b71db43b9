// Package limits knows how much memory and how many open files this process may use, and
// how much it does use.
package limits

import (
	"log/slog"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
)

// memoryShare of the task's memory goes to the Go runtime as its soft limit; the
// rest is for the kernel's socket buffers and the runtime's own overhead.
const memoryShare = 0.8

// cgroupLimits are the files in which Linux reports the memory limit of a container, for
// versions 2 and 1 of control groups.
var cgroupLimits = []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}

// memory is the result of the last SetMemory in bytes; 0 is unknown.
var memory atomic.Int64

// Memory returns how many bytes this process may use: the limit of the task, or GOMEMLIMIT.
// 0 is unknown.
func Memory() int64 { return memory.Load() }

// SetMemory gives the Go runtime a soft limit below the limit of the task, which
// [TaskMemory] finds. It reports whether the soft limit changed: it does not if the limit
// is unknown, or if keep is set because the operator has set GOMEMLIMIT.
func SetMemory(taskMiB int, keep bool, log *slog.Logger) (changed bool) {
	if keep {
		memory.Store(debug.SetMemoryLimit(-1))
		return false
	}
	limit, _ := TaskMemory(taskMiB)
	if limit == 0 {
		return false
	}
	memory.Store(limit)
	soft := int64(float64(limit) * memoryShare)
	if debug.SetMemoryLimit(soft) == soft {
		return false
	}
	log.Info("memory limit set", "task_mib", limit>>20, "go_mib", soft>>20)
	return true
}

// TaskMemory returns the smaller of the limits of the task metadata (taskMiB; 0 is unknown)
// and of the control group, in bytes, and names its source. It returns 0 if neither is known.
func TaskMemory(taskMiB int) (limit int64, source string) {
	if taskMiB > 0 {
		limit, source = int64(taskMiB)<<20, "task metadata"
	}
	for _, path := range cgroupLimits {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		// No limit is "max" in version 2, and a number beyond any machine in version 1.
		n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		if err == nil && n < 1<<50 && (limit == 0 || n < limit) {
			limit, source = n, "the control group"
		}
	}
	return limit, source
}
