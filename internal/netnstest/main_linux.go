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

// Main is testing.M.Run in a new network namespace: the test binary runs itself
// again there, so that even the test process has no way out, and servers of the
// test are hosts of its network ([Network.Self]). before runs first, outside,
// where the network still is, and returns environment for the inner run; a nil
// before is none. Without root the tests run as they are, to say themselves
// why they cannot.
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

// runInside gives the namespace a name, by which links can be plugged in. Only
// now is it sure that the process has no thread elsewhere yet.
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
