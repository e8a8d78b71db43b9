package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"subnetrouter/internal/forward"
	"subnetrouter/internal/ops"
	"subnetrouter/internal/routertest"
	"subnetrouter/internal/tailnet"
	"subnetrouter/internal/testwait"

	"golang.org/x/sys/unix"
)

// fill writes to a pipe that has no reader until the pipe is full.
func fill(t *testing.T, w *os.File) {
	t.Helper()
	fd := int(w.Fd())
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{4096, 1} {
		for {
			if _, err := unix.Write(fd, make([]byte, size)); err == unix.EAGAIN {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := unix.SetNonblock(fd, false); err != nil { // the flag is the child's, too
		t.Fatal(err)
	}
}

// startPrepared starts the router with a command that prepare may change.
func (s *setting) startPrepared(t *testing.T, prepare func(*exec.Cmd)) *child {
	t.Helper()
	c := s.prepare(t)
	prepare(c.cmd)
	c.begin()
	return c
}

// inShell starts the router from a shell after script, with the privileges that it needs.
func inShell(script string, flags uintptr) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) {
		cmd.Args = []string{"sh", "-ec", script + `; exec "$0"`, cmd.Path}
		cmd.Path = "/bin/sh"
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	}
}

func needsRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root may make namespaces and mounts")
	}
}

// awaitExit waits for the process to exit, and returns its exit code.
func (c *child) awaitExit(within time.Duration) (code int) {
	c.t.Helper()
	select {
	case <-c.done:
		return c.cmd.ProcessState.ExitCode()
	case <-time.After(within):
		c.t.Fatalf("the router still runs %v after the signal", within)
		return -1
	}
}

// secondSignal starts a drain that cannot end, and interrupts it.
func (c *child) secondSignal(s *setting) {
	c.t.Helper()
	s.Control.Close() // the routes cannot move any more
	c.cmd.Process.Signal(syscall.SIGTERM)
	c.await("the drain", func(r ops.Readiness) bool {
		return slices.ContainsFunc(r.Reasons, func(why ops.Reason) bool { return why.Code == "draining" })
	})
	start := time.Now()
	c.cmd.Process.Signal(syscall.SIGINT)
	if code := c.awaitExit(testwait.Limit()); code != exitFailed {
		c.t.Errorf("exit code %d after the second signal, want %d", code, exitFailed)
	}
	if took := time.Since(start); took > time.Second {
		c.t.Errorf("the process ended %v after the second signal", took)
	}
}

// TestSignalsWhileOutputIsBlocked expects signals to work while log lines are lost.
func TestSignalsWhileOutputIsBlocked(t *testing.T) {
	for _, tc := range []struct {
		name        string
		out, errors bool
		later       bool // the output blocks once the router is ready
	}{{"standard output", true, false, false}, {"standard output, later", true, false, true}, {"standard error", false, true, false}, {"both", true, true, false}} {
		for _, second := range []bool{false, true} {
			t.Run(fmt.Sprint(tc.name, ", second signal ", second), func(t *testing.T) {
				t.Parallel()
				s := newSetting(t)
				s.Env["ROUTER_LOG_LEVEL"] = "debug"
				s.Env["ROUTER_FLOW_LOG"] = "on"
				s.Env["ROUTER_DRAIN_TIMEOUT"] = "30s"
				r, w, err := os.Pipe()
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				defer w.Close()
				read := make(chan struct{})
				if tc.later {
					go func() { defer close(read); io.Copy(io.Discard, r) }()
				} else {
					fill(t, w)
				}
				c := s.startPrepared(t, func(cmd *exec.Cmd) {
					if tc.out {
						cmd.Stdout = w
					}
					if tc.errors {
						cmd.Stderr = w
					}
				})
				c.awaitReady()
				if tc.later {
					r.SetReadDeadline(time.Now())
					<-read
					fill(t, w)
				}
				if second {
					c.secondSignal(s)
					return
				}
				c.cmd.Process.Signal(syscall.SIGTERM)
				if code := c.awaitExit(testwait.Limit()); code != exitOK {
					t.Errorf("exit code %d", code)
				}
			})
		}
	}
}

// TestLostLogLinesAreCounted expects the log and a metric to count the lines that a blocked
// output loses.
func TestLostLogLinesAreCounted(t *testing.T) {
	s := newSetting(t)
	s.Env["ROUTER_LOG_LEVEL"] = "debug"
	c := s.startPrepared(t, func(cmd *exec.Cmd) {
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Skip("no /dev/full here: ", err)
		}
		t.Cleanup(func() { full.Close() })
		cmd.Stdout = full
	})
	c.awaitReady()
	if n := c.metric("router_log_lines_dropped_total"); n < 5 {
		t.Errorf("%v lines are counted as dropped on a full disk", n)
	}
	if code := c.stop(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

// TestReaderOfLogGoes expects the router to outlive the reader of its log.
func TestReaderOfLogGoes(t *testing.T) {
	s := newSetting(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	r.Close()
	c := s.startPrepared(t, func(cmd *exec.Cmd) { cmd.Stdout = w })
	c.awaitReady()
	if code := c.stop(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

// TestSignalWhileSomethingHangs stops a router that hangs on a file before it has an engine.
func TestSignalWhileSomethingHangs(t *testing.T) {
	fifo := func(t *testing.T, path string) string {
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, tc := range []struct {
		name string
		hang func(t *testing.T, s *setting, dir string)
	}{
		{"configuration", func(t *testing.T, s *setting, dir string) {
			s.Env["ROUTER_HOSTNAME"] = "file:" + fifo(t, filepath.Join(dir, "hostname"))
		}},
		{"node state", func(t *testing.T, s *setting, dir string) {
			fifo(t, filepath.Join(dir, "tailscaled.state"))
			s.Env["ROUTER_STATE"] = dir
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newSetting(t)
			tc.hang(t, s, t.TempDir())
			c := s.start(t)
			c.awaitSignalHandlers()
			time.Sleep(500 * time.Millisecond) // the signal may come before or after the file is opened; both must work
			c.cmd.Process.Signal(syscall.SIGTERM)
			if code := c.awaitExit(10 * time.Second); code != exitOK {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

// awaitSignalHandlers waits until the Go runtime of the child follows SIGTERM: before, the
// kernel ignores signals for a process 1, and no program can do anything about it.
func (c *child) awaitSignalHandlers() {
	c.t.Helper()
	for deadline := time.Now().Add(testwait.Limit()); time.Now().Before(deadline); time.Sleep(time.Millisecond / 2) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
		if err != nil {
			c.t.Fatal(err)
		}
		_, caught, _ := strings.Cut(string(text), "SigCgt:")
		mask, _ := strconv.ParseUint(strings.Fields(caught + " 0")[0], 16, 64)
		if mask&(1<<(syscall.SIGTERM-1)) != 0 {
			return
		}
	}
	c.t.Fatal("the child has no signal handlers")
}

// TestEarlySignal sends a signal at increasing delays after the start, which includes the
// start of the second program in the same process, and expects none to be lost.
func TestEarlySignal(t *testing.T) {
	s := newSetting(t)
	for delay := time.Duration(0); delay < 40*time.Millisecond; delay += 1300 * time.Microsecond {
		c := s.start(t)
		c.awaitSignalHandlers()
		time.Sleep(delay)
		c.cmd.Process.Signal(syscall.SIGTERM)
		code := c.awaitExit(testwait.Limit())
		// Before the first program follows signals, and between the two, the signal has
		// its default action.
		status := c.cmd.ProcessState.Sys().(syscall.WaitStatus)
		began := strings.Contains(c.out.String(), "router starting")
		if code != exitOK && (began || !status.Signaled() || status.Signal() != syscall.SIGTERM) {
			t.Errorf("after %v: exit code %d, %v", delay, code, c.cmd.ProcessState)
		}
	}
}

// lowestFree returns the descriptor that the child would open next.
func (c *child) lowestFree() uint64 {
	c.t.Helper()
	for fd := uint64(0); ; fd++ {
		if _, err := os.Lstat(fmt.Sprintf("/proc/%d/fd/%d", c.cmd.Process.Pid, fd)); errors.Is(err, os.ErrNotExist) {
			return fd
		}
	}
}

// TestOutOfDescriptors expects a router without free descriptors to answer its health check
// and to stop cleanly.
func TestOutOfDescriptors(t *testing.T) {
	s := newSetting(t)
	s.Env["ROUTER_DRAIN_TIMEOUT"] = "20s"
	c := s.start(t)
	c.awaitReady()
	http.DefaultClient.CloseIdleConnections()
	time.Sleep(time.Second) // the router closes its ends
	limit := unix.Rlimit{Cur: c.lowestFree(), Max: 4096}
	if err := unix.Prlimit(c.cmd.Process.Pid, unix.RLIMIT_NOFILE, &limit, nil); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if out, err := s.command(t, nil, "healthcheck").CombinedOutput(); err != nil {
			t.Fatalf("health check %d: %v: %s", i, err, out)
		}
	}
	if out, err := s.command(t, nil, "healthcheck", "--ready").CombinedOutput(); err != nil {
		t.Errorf("health check --ready: %v: %s", err, out)
	}
	if code := c.stop(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

// TestReservedFiles checks that the descriptors of everything but flows fit into the reserve.
func TestReservedFiles(t *testing.T) {
	const (
		rest     = 60 // the engine, the event loop, the log, listeners; a start has some 40
		awsCalls = 32 // connections to AWS, task metadata and Tailscale's API
		probes   = 16
	)
	sum := ops.StatusBounds.MaxFiles() + ops.DebugBounds.MaxFiles() + tailnet.MaxLocalAPIConns + rest + awsCalls + probes
	if sum > forward.ReservedFiles {
		t.Errorf("%d descriptors may be open besides flows, %d are reserved", sum, forward.ReservedFiles)
	}
}

// TestIdleConnectionsToListener expects 1,100 idle connections to leave descriptors for the
// flows, and a connection for the health check.
func TestIdleConnectionsToListener(t *testing.T) {
	s := newSetting(t)
	debug := routertest.FreeAddress(t)
	s.Env["ROUTER_DEBUG_LISTEN"] = debug
	c := s.startPrepared(t, inShell("ulimit -n 600", 0))
	c.awaitReady()
	var held []net.Conn
	defer func() {
		for _, conn := range held {
			conn.Close()
		}
	}()
	for i := range 1100 {
		to := s.Env["ROUTER_LISTEN"]
		if i%4 == 0 {
			to = debug
		}
		conn, err := net.DialTimeout("tcp", to, 5*time.Second)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		held = append(held, conn)
	}
	if out, err := s.command(t, nil, "healthcheck").CombinedOutput(); err != nil {
		t.Errorf("health check: %v: %s", err, out)
	}
	if n := c.metric("process_open_fds"); n > 150 {
		t.Errorf("%v open files", n)
	}
	if n := c.metric(`router_http_connections_refused_total{listener="status"}`); n < 500 {
		t.Errorf("%v connections are counted as refused", n)
	}
}

// TestStateOnAFullDisk expects a warning for a folder of ROUTER_STATE that cannot be
// written, and a router that works.
func TestStateOnAFullDisk(t *testing.T) {
	needsRoot(t)
	for _, tc := range []struct{ name, mount string }{
		{"read-only", "mount -t tmpfs -o ro tmpfs %s"},
		{"full", "mount -t tmpfs -o size=4k,nr_inodes=2 tmpfs %[1]s; head -c 4096 /dev/zero >%[1]s/other"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newSetting(t)
			dir := t.TempDir()
			s.Env["ROUTER_STATE"] = dir
			c := s.startPrepared(t, inShell("mount --make-rprivate /; "+fmt.Sprintf(tc.mount, dir), syscall.CLONE_NEWNS))
			c.awaitReady()
			c.await("the warning", func(r ops.Readiness) bool {
				return r.Ready && slices.ContainsFunc(r.Warnings, func(w ops.Reason) bool {
					return w.Code == "state_unwritable" && strings.Contains(w.Message, dir) && w.Fix != ""
				})
			})
			c.awaitLog(`"msg":"the node's state cannot be stored`)
			if code := c.stop(); code != exitOK {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

// TestStateDiskBecomesReadOnly expects a removed node to join again although its new
// identity cannot be stored.
func TestStateDiskBecomesReadOnly(t *testing.T) {
	needsRoot(t)
	s := newSetting(t)
	dir := t.TempDir()
	s.Env["ROUTER_STATE"] = dir
	c := s.startPrepared(t, inShell("mount --make-rprivate /; mount -t tmpfs tmpfs "+dir, syscall.CLONE_NEWNS))
	c.awaitReady()
	nsenter := exec.Command("nsenter", "-t", strconv.Itoa(c.cmd.Process.Pid), "-m", "mount", "-o", "remount,ro", dir)
	if out, err := nsenter.CombinedOutput(); err != nil {
		t.Skipf("remounting: %v: %s", err, out)
	}
	nodes, err := s.Control.Nodes(t.Context())
	if err != nil || len(nodes) != 1 {
		t.Fatal(nodes, err)
	}
	if err := s.Control.DeleteNode(t.Context(), nodes[0].Name); err != nil {
		t.Fatal(err)
	}
	c.await("the new node, with a warning", func(r ops.Readiness) bool {
		return r.Ready && slices.ContainsFunc(r.Warnings, func(w ops.Reason) bool { return w.Code == "state_unwritable" })
	})
}

// TestSocketCannotBeMade expects the router to work without the LocalAPI.
func TestSocketCannotBeMade(t *testing.T) {
	s := newSetting(t)
	s.Env["ROUTER_SOCKET"] = "/proc/self/nowhere/tailscaled.sock"
	c := s.start(t)
	c.awaitReady()
	c.awaitLog("no LocalAPI socket")
}
