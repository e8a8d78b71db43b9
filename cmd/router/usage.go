package main

import (
	"os"
	"strconv"
	"strings"
	"syscall"
)

// residentMemory is what the process holds in bytes; 0 where the platform has no
// /proc.
func residentMemory() int64 {
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

// openFiles counts the file descriptors in use, and says how many there may be; 0
// is unknown.
func openFiles() (used, limit int64) {
	if dir, err := os.Open("/proc/self/fd"); err == nil {
		names, _ := dir.Readdirnames(-1)
		dir.Close()
		used = int64(max(0, len(names)-1)) // the directory's own is gone
	}
	return used, openFilesLimit()
}

func openFilesLimit() int64 {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) != nil {
		return 0
	}
	return int64(min(l.Cur, 1<<62))
}
