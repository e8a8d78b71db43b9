package main

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// process is a program that its scope kills.
type process struct {
	cmd    *exec.Cmd
	output tail
	ended  chan struct{}
}

// startProcess starts cmd. It keeps the end of its output, unless cmd redirects it, for
// the failure message.
func startProcess(s *scope, cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, ended: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout = &p.output
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &p.output
	}
	// A process group of its own, so that Ctrl-C does not reach it directly.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", cmd.Path, err)
	}
	go func() {
		defer close(p.ended)
		cmd.Wait()
	}()
	s.Cleanup(p.kill)
	return p, nil
}

// kill ends the process and its descendants. It cannot signal a process group:
// containerboot puts tailscaled into another one.
func (p *process) kill() {
	select {
	case <-p.ended:
		return
	default:
	}
	all := family(p.cmd.Process.Pid)
	for _, pid := range all {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	<-p.ended
	for _, orphan := range all[1:] {
		unix.Wait4(orphan, nil, 0, nil) // an error: its parent was faster
	}
}

// adoptOrphans makes this process the parent of orphaned descendants, so that kill can
// reap them. In a container, PID 1 may not reap.
func adoptOrphans() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("adopting orphans: %w", err)
	}
	return nil
}

// alive returns nil while the process runs, else an error with its exit state and output.
func (p *process) alive() error {
	select {
	case <-p.ended:
		return fmt.Errorf("it ended (%v), output: %s", p.cmd.ProcessState, p.output.last())
	default:
		return nil
	}
}

// tail is a writer that keeps the end of the output.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const tailLen = 16 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if over := len(t.b) - tailLen; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

// last returns the last three lines of the output, on one line for a table's footnote.
func (t *tail) last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(string(bytes.TrimSpace(t.b)), "\n")
	return strings.Join(lines[max(0, len(lines)-3):], " / ")
}
