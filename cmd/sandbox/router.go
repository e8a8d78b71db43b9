package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"subnetrouter/cmd/sandbox/sandboxed"
	"subnetrouter/internal/tailnettest/stock"
)

// build builds the router, and tailscaled for the client, and returns the paths of the binaries.
// It keeps them in the user's cache, by checkout, so that the next start does not have to link
// them.
func build(ctx context.Context, dir string) (router, tailscaled string, err error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return "", "", err
	}
	tags, err := stock.Tags(root)
	if err != nil {
		return "", "", err
	}
	tags = append(tags, "sandbox")
	if cache, err := os.UserCacheDir(); err == nil {
		kept := filepath.Join(cache, "subnetrouter-sandbox", fmt.Sprintf("%x", sha256.Sum256([]byte(root)))[:12])
		if os.MkdirAll(kept, 0o755) == nil {
			dir = kept
		}
	}
	router = filepath.Join(dir, "router")
	// As shipped, with the version of Tailscale, except for the tag.
	cmd := exec.CommandContext(ctx, filepath.Join(root, "scripts", "build"), router, "-tags", strings.Join(tags, ","))
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", "", fmt.Errorf("building ./cmd/router: %w\n%s", err, bytes.TrimSpace(out))
	}
	if err := stock.Build(ctx, root, stock.Current, dir, "tailscaled"); err != nil {
		return "", "", err
	}
	return router, filepath.Join(dir, "tailscaled"), nil
}

func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("finding the module with go env: %w", err)
	}
	mod := strings.TrimSpace(string(out))
	if mod == "" || mod == os.DevNull {
		return "", errors.New("finding the module: not inside a checkout; run `make sandbox` in one")
	}
	return filepath.Dir(mod), nil
}

// writeCommands writes the programs router and tailscale into dir, for the user's terminal.
// They run the binary as commands against the sandbox's router: with its environment, which
// has no credential, and its socket.
func writeCommands(dir, binary, socket string, env []string) error {
	link := filepath.Join(dir, "binary", "tailscale") // the binary acts by its name
	if err := os.MkdirAll(filepath.Dir(link), 0o700); err != nil {
		return err
	}
	if err := os.Symlink(binary, link); err != nil {
		return err
	}
	var router strings.Builder
	router.WriteString("#!/bin/sh\nexec env")
	for _, e := range env {
		// With it, the process would end when its standard input does, as the router must.
		if !strings.HasPrefix(e, sandboxed.Variable+"=") {
			router.WriteString(" " + quote(e))
		}
	}
	router.WriteString(" " + quote(binary) + " \"$@\"\n")
	for name, text := range map[string]string{
		"router":    router.String(),
		"tailscale": "#!/bin/sh\nexec " + quote(link) + " --socket=" + quote(socket) + " \"$@\"\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			return err
		}
	}
	return nil
}

// quote returns s as one word of a POSIX shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// child is the running router.
type child struct {
	cmd      *exec.Cmd
	lifeline io.Closer // the router's standard input: it exits when this is closed, at the latest with this process
	ended    chan struct{}
}

// startRouter starts the binary with exactly this environment.
func startRouter(binary string, env []string, dir string, log *routerLog) (*child, error) {
	cmd := exec.Command(binary)
	cmd.Env = env
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = log, log
	// Ctrl-C must not reach the router: it gets SIGTERM from terminate.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	lifeline, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the router: %w", err)
	}
	c := &child{cmd: cmd, lifeline: lifeline, ended: make(chan struct{})}
	go func() {
		defer close(c.ended)
		cmd.Wait() // the result is in ProcessState
	}()
	return c, nil
}

// terminate sends SIGTERM, waits for the exit and returns an error if its code is not 0.
func (c *child) terminate(ctx context.Context) error {
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("sending SIGTERM to the router: %w", err)
	}
	select {
	case <-c.ended:
	case <-ctx.Done():
		return errors.New("the router did not exit in time after SIGTERM")
	}
	if state := c.cmd.ProcessState; state.ExitCode() != 0 {
		return fmt.Errorf("stopping the router: %s, want exit status 0", state)
	}
	return nil
}

// close kills the router if it still runs.
func (c *child) close() {
	c.cmd.Process.Kill()
	<-c.ended
	c.lifeline.Close()
}

// routerLog is an io.Writer for the router's output that keeps its end.
type routerLog struct {
	show func(line string) // nil: not shown

	mu     sync.Mutex
	part   []byte // incomplete last line
	kept   []string
	latest map[string]map[string]any // by message
}

// A run logs less than keptLines; a failure prints the last shownLines.
const (
	keptLines  = 1000
	shownLines = 12
)

func (l *routerLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.part = append(l.part, p...)
	for {
		line, rest, whole := bytes.Cut(l.part, []byte("\n"))
		if !whole {
			return len(p), nil
		}
		l.add(string(line))
		l.part = rest
	}
}

func (l *routerLog) add(line string) {
	if len(l.kept) == keptLines {
		l.kept = l.kept[1:]
	}
	l.kept = append(l.kept, line)
	var record map[string]any
	if json.Unmarshal([]byte(line), &record) == nil {
		if l.latest == nil {
			l.latest = map[string]map[string]any{}
		}
		l.latest[fmt.Sprint(record["msg"])] = record
	}
	if l.show != nil {
		l.show(line)
	}
}

// find returns the latest record with this message.
func (l *routerLog) find(msg string) (record map[string]any, found bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	record, found = l.latest[msg]
	return record, found
}

func (l *routerLog) last(n int) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.kept[max(0, len(l.kept)-n):]...)
}
