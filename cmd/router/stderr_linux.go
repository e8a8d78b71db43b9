package main

import "golang.org/x/sys/unix"

// unblockStandardError keeps the Go runtime from waiting for the reader of standard
// error: it writes there itself, the trace that [processors.Calm] asks for with its
// scheduler locked. If standard error is a pipe, it becomes another opening of the same
// pipe: the flag is of an opening, and other processes have the first one. A larger pipe
// holds a whole crash report.
func unblockStandardError() {
	const stderr, room = 2, 1 << 20
	var s unix.Stat_t
	if unix.Fstat(stderr, &s) != nil || s.Mode&unix.S_IFMT != unix.S_IFIFO {
		return
	}
	fd, err := unix.Open("/proc/self/fd/2", unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return // the pipe is another user's
	}
	defer unix.Close(fd)
	unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, room)
	unix.Dup3(fd, stderr, 0)
}
