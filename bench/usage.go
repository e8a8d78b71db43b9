package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of CPU times in /proc/PID/stat: 1/sysconf(_SC_CLK_TCK),
// which is 100 on every Linux that Go runs on.
const clockTick = 10 * time.Millisecond

// stat holds the fields of /proc/PID/stat that are needed.
type stat struct {
	pid, parent int
	cpu         time.Duration // user and system, with children that have ended
}

func readStat(pid int) (stat, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	// The name, in parentheses, may hold anything.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 15 {
		return stat{}, fmt.Errorf("reading /proc/%d/stat: %d fields", pid, len(fields))
	}
	num := func(i int) int { n, _ := strconv.Atoi(fields[i]); return n }
	ticks := num(11) + num(12) + num(13) + num(14)
	return stat{pid: pid, parent: num(1), cpu: time.Duration(ticks) * clockTick}, nil
}

// family returns a process and its descendants.
func family(pid int) []int {
	entries, _ := os.ReadDir("/proc")
	children := map[int][]int{}
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			if s, err := readStat(n); err == nil {
				children[s.parent] = append(children[s.parent], n)
			}
		}
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}

// cpuOf sums the CPU time of processes.
func cpuOf(pids []int) (sum time.Duration) {
	for _, pid := range pids {
		if s, err := readStat(pid); err == nil {
			sum += s.cpu
		}
	}
	return sum
}

// memory is in bytes.
type memory struct{ now, peak int64 }

// memoryOf returns the resident memory of processes. The sum of their peaks is the peak
// of their sum, because only one process of a router grows.
func memoryOf(pids []int) (m memory, err error) {
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return m, fmt.Errorf("reading resident memory: %w", err)
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) != 3 {
				continue
			}
			kib, _ := strconv.ParseInt(f[1], 10, 64)
			switch f[0] {
			case "VmRSS:":
				m.now += kib << 10
			case "VmHWM:":
				m.peak += kib << 10
			}
		}
	}
	return m, nil
}

// resetPeak resets the peak that memoryOf returns to the current value.
func resetPeak(pids []int) error {
	for _, pid := range pids {
		err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("resetting the peak of resident memory: %w", err)
		}
	}
	return nil
}

// openFiles counts the descriptors of processes.
func openFiles(pids []int) (n int) {
	for _, pid := range pids {
		list, _ := os.ReadDir(filepath.Join("/proc", strconv.Itoa(pid), "fd"))
		n += len(list)
	}
	return n
}

// sampleOpenFiles samples openFiles until stop is called, which returns the maximum.
func sampleOpenFiles(pids []int) (stop func() int) {
	const every = 250 * time.Millisecond
	quit, result := make(chan struct{}), make(chan int)
	go func() {
		var seen []int
		for {
			seen = append(seen, openFiles(pids))
			select {
			case <-time.After(every):
			case <-quit:
				result <- slices.Max(append(seen, openFiles(pids)))
				return
			}
		}
	}()
	return func() int { close(quit); return <-result }
}
