package netnstest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
)

const inside = "NETNSTEST_INSIDE"

// Main runs the tests in a new network namespace, in another process of the test binary:
// so the test process has no way out either, and servers of the test are hosts of its
// network ([Network.Self]). before, unless nil, runs first in the original namespace, and
// returns environment variables for that process. Without root, Main runs the tests in
// this process, where [Require] skips or fails them.
func Main(m *testing.M, before func() (env []string, err error)) int {
	if os.Geteuid() != 0 {
		return m.Run()
	}
	if os.Getenv(inside) != "" {
		return runInside(m)
	}
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if before != nil {
		env, err := before()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		cmd.Env = append(cmd.Env, env...)
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "running the tests in a network namespace:", err)
		return 1
	}
	return 0
}

// runInside gives the namespace a name, so that links can be added to it, and runs the
// tests. At this point no thread of the process can be in another namespace.
func runInside(m *testing.M) int {
	for _, args := range [][]string{
		{"netns", "attach", selfName(), strconv.Itoa(os.Getpid())},
		{"link", "set", "lo", "up"},
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "preparing the test's network namespace: ip %v: %v: %s", args, err, out)
			return 1
		}
	}
	defer exec.Command("ip", "netns", "delete", selfName()).Run()
	return m.Run()
}

func selfName() string { return fmt.Sprintf("sr%d-self", os.Getpid()) }
