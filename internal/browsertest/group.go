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

// own makes the browser the first of a process group, and has the kernel kill it when
// the test process ends.
func (p *Page) own(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p.browser = cmd
}

// kill ends all processes of the browser, and waits for their end. A browser is a dozen
// processes; those that remain when the first has ended write to the profile for a
// while, and a folder that is written to cannot be removed.
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

// members lists the processes of a group that run. A zombie does not: it keeps its
// number until the first process of the machine, or of the container, asks for it.
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
