package main

import (
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// takeTerminal puts this process into a process group of its own in the foreground of the
// terminal f, if it is one, and returns a function that gives the terminal back. Ctrl-C then
// reaches the sandbox only: make, which started it, would end with an error at once, although
// the sandbox stops cleanly. Ctrl-Z does nothing, since make would not notice that its child
// has stopped.
func takeTerminal(f *os.File) (giveBack func()) {
	fd := int(f.Fd())
	before, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
	if err != nil || before != unix.Getpgrp() {
		return func() {} // not a terminal, or in its background
	}
	signal.Ignore(syscall.SIGTTOU, syscall.SIGTSTP) // the first stops a process that sets the group from outside of it
	if err := unix.Setpgid(0, 0); err != nil {
		return func() {} // the leader of a session, which has a group of its own
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPGRP, unix.Getpid()); err != nil {
		return func() {}
	}
	return func() { unix.IoctlSetPointerInt(fd, unix.TIOCSPGRP, before) }
}
