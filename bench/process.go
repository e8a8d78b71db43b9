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

// process is a program that ends with its scope.
type process struct {
	cmd   *exec.Cmd
	said  tail
	ended chan struct{}
}

// startProcess starts cmd; its output, unless taken elsewhere, is kept for the
// failure message.
func startProcess(s *scope, cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, ended: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout = &p.said
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &p.said
	}
	// Of its own group, so that a Ctrl-C is ours to pass on.
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

// kill ends the process and all that it started: containerboot gives
// tailscaled a process group of its own.
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

// adoptOrphans makes this process the parent of those that their own leaves
// behind. In a container, who else would be may not care for the dead.
func adoptOrphans() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("adopting orphans: %w", err)
	}
	return nil
}

// alive returns an error that says how the process ended, if it did.
func (p *process) alive() error {
	select {
	case <-p.ended:
		return fmt.Errorf("it ended (%v), saying: %s", p.cmd.ProcessState, p.said.last())
	default:
		return nil
	}
}

// tail keeps the end of what is written to it.
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

// last is the end of the output, short enough for a table's footnote.
func (t *tail) last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(string(bytes.TrimSpace(t.b)), "\n")
	return strings.Join(lines[max(0, len(lines)-3):], " / ")
}
