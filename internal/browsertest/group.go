package browsertest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"subnetrouter/internal/testwait"
)

// own makes the browser the leader of a process group, and makes the kernel kill it when
// the test process ends.
func (p *Page) own(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p.browser = cmd
}

// kill kills all processes of the browser and waits for their end. A browser has a dozen
// processes; after the first has ended, the others still write to the profile for a while,
// and the folder cannot be removed until they stop.
func (p *Page) kill() {
	if p.browser == nil || p.browser.Process == nil {
		return // it did not start
	}
	group := p.browser.Process.Pid
	syscall.Kill(-group, syscall.SIGKILL)
	testwait.Until(p.t, "the browser to end", func() error {
		if alive := members(group); len(alive) > 0 {
			return fmt.Errorf("processes %v of group %d", alive, group)
		}
		return nil
	})
}

// members returns the running processes of a group. A zombie does not run: it keeps its
// PID until PID 1 reaps it.
func members(group int) (pids []string) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		// "PID (NAME) STATE PPID PGRP …", where NAME may hold anything.
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if len(fields) > 2 && fields[2] == strconv.Itoa(group) && fields[0] != "Z" && fields[0] != "X" {
			pids = append(pids, filepath.Base(filepath.Dir(file)))
		}
	}
	return pids
}
