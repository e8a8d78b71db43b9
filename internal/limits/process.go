package limits

import (
	"os"
	"strconv"
	"strings"
	"syscall"
)

// ResidentMemory returns the resident set of this process in bytes; 0 on platforms without
// /proc.
func ResidentMemory() int64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text)) // in pages: size, resident, …
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

// OpenFiles returns the number of open file descriptors; 0 on platforms without /proc.
func OpenFiles() (used int64) {
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return 0
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	return int64(max(0, len(names)-1)) // without the directory's own
}

// MaxOpenFiles returns how many file descriptors this process may have open; 0 is unknown.
func MaxOpenFiles() int64 {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) != nil {
		return 0
	}
	return int64(min(l.Cur, 1<<62))
}
