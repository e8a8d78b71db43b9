// Command program is a process that the tests give capabilities: program ACTION [FOLDER].
package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"sync"
	"syscall"

	"subnetrouter/internal/privilege"
)

// report is the program's output.
type report struct {
	Threads    []string // capabilities of all threads: inheritable, permitted, effective; and NoNewPrivs
	Outcome    privilege.Outcome
	FolderErr  string
	Executed   string // the same of a copy of this process that it started
	Dumpable   bool
	Traceback  string // GOTRACEBACK
	Granted    bool   // NET_ADMIN
	Withheld   bool
	Takeable   bool // a folder
	NoNewPrivs bool
}

var fields = regexp.MustCompile(`(?m)^(CapInh|CapPrm|CapEff|NoNewPrivs):\s*(\w+)$`)

func status(path string) (s string) {
	text, _ := os.ReadFile(path)
	for _, m := range fields.FindAllSubmatch(text, -1) {
		s += string(m[1]) + "=" + string(m[2]) + " "
	}
	return s
}

func main() {
	privilege.Begin()
	// More threads than one must drop them.
	var started sync.WaitGroup
	started.Add(4)
	for range 4 {
		go func() {
			runtime.LockOSThread()
			started.Done()
			select {}
		}()
	}
	started.Wait()

	var out report
	var err error
	switch os.Args[1] {
	case "status":
		os.Stdout.WriteString(status("/proc/self/status"))
		return
	case "panic":
		panic("as the test wants it")
	case "drop":
		err = privilege.Drop()
	case "kernel":
		out.Outcome, err = privilege.Settle(privilege.Need{Kernel: true}, os.Args[2])
	case "userspace":
		out.Outcome, err = privilege.Settle(privilege.Need{}, os.Args[2])
	}
	if err != nil {
		os.Stderr.WriteString(err.Error())
		os.Exit(1)
	}
	if e := out.Outcome.FolderErr; e != nil {
		out.FolderErr, out.Outcome.FolderErr = e.Error(), nil
	}
	threads, _ := filepath.Glob("/proc/self/task/*/status")
	for _, thread := range threads {
		out.Threads = append(out.Threads, status(thread))
	}
	if p, err := os.StartProcess("/proc/self/exe", []string{os.Args[0], "status"}, &os.ProcAttr{Files: []*os.File{nil, os.Stdout, os.Stderr}}); err == nil {
		p.Wait()
		os.Stdout.WriteString("\n")
	}
	info, err := os.Stat("/proc/self/environ")
	out.Dumpable = err == nil && int(info.Sys().(*syscall.Stat_t).Uid) == os.Getuid()
	out.Traceback = os.Getenv("GOTRACEBACK")
	out.Granted = privilege.Granted(privilege.NetAdmin)
	out.Withheld, out.NoNewPrivs = privilege.Withheld(privilege.NetAdmin)
	out.Takeable = privilege.FolderTakeable()
	json.NewEncoder(os.Stdout).Encode(out)
}
