package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"subnetrouter/bench/load"
	"subnetrouter/bench/target"
	"subnetrouter/internal/netnstest"
)

// The benchmark executes itself in other namespaces, so that all threads of that process
// belong to the namespace and its open files count separately. Such a part prints one
// line, its [answer], and exits when its standard input is closed, which also happens
// when its parent dies.
const roleWord = "bench-role"

type answer struct {
	Result load.Result
	Err    string
}

// playRole is the main function of a part. It returns false if args do not name one.
func playRole(args []string) bool {
	if len(args) != 4 || args[1] != roleWord {
		return false
	}
	ended := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(ended)
		os.Exit(0)
	}()
	var a answer
	var err error
	switch args[2] {
	case "serve":
		_, err = target.Start(args[3])
	case "load":
		var g load.Generator
		if g, err = load.Decode(args[3]); err == nil {
			a.Result, err = g.Run(context.Background())
		}
	default:
		err = fmt.Errorf("no role is called %q", args[2])
	}
	if err != nil {
		a.Err = err.Error()
	}
	json.NewEncoder(os.Stdout).Encode(a)
	<-ended
	return true
}

// part is this program, running in another namespace.
type part struct {
	*process
	lifeline io.Closer
	out      *bufio.Reader
	done     func()
}

// startRole starts a part and waits for its line. The part runs until it is closed, at
// the latest by the world's scope.
func (w *world) startRole(h *netnstest.Host, role, argument string) (*part, error) {
	p, err := w.beginRole(h, role, argument)
	if err != nil {
		return nil, err
	}
	_, err = p.wait(w.scope.ctx)
	return p, err
}

func (w *world) beginRole(h *netnstest.Host, role, argument string) (*part, error) {
	s := newScope(w.scope.ctx)
	var none *cgroup
	cmd := none.wrap(w.command(h, []string{"PATH=" + systemPath}, w.self, roleWord, role, argument), w.files)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("starting the part %s: %w", role, err)
	}
	// Not StdoutPipe: Wait closes it when the process ends, even if it has unread data.
	r, out, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("starting the part %s: %w", role, err)
	}
	cmd.Stdout = out
	p := &part{lifeline: in, out: bufio.NewReader(r), done: func() { s.close(); r.Close() }}
	p.process, err = startProcess(s, cmd)
	out.Close()
	if err != nil {
		r.Close()
		return nil, err
	}
	w.scope.Cleanup(p.close)
	return p, nil
}

// wait reads the part's line.
func (p *part) wait(ctx context.Context) (load.Result, error) {
	type line struct {
		text []byte
		err  error
	}
	lines := make(chan line, 1)
	go func() {
		text, err := p.out.ReadBytes('\n')
		lines <- line{text, err}
	}()
	select {
	case l := <-lines:
		if l.err != nil {
			return load.Result{}, fmt.Errorf("reading the result of a part: %w; its output: %s", l.err, p.output.last())
		}
		var a answer
		if err := json.Unmarshal(l.text, &a); err != nil {
			return load.Result{}, fmt.Errorf("reading the result of a part: %w", err)
		}
		if a.Err != "" {
			return a.Result, errors.New(a.Err)
		}
		return a.Result, nil
	case <-ctx.Done():
		return load.Result{}, context.Cause(ctx)
	}
}

func (p *part) close() {
	p.lifeline.Close()
	p.done()
}

// load runs a generator in the client's namespace and closes its flows.
func (w *world) load(ctx context.Context, g load.Generator) (load.Result, error) {
	return w.loadAt(ctx, w.client, g)
}

// loadAt runs a generator in a host's namespace and closes its flows.
func (w *world) loadAt(ctx context.Context, h *netnstest.Host, g load.Generator) (load.Result, error) {
	r, release, err := w.loadAndKeep(ctx, h, g)
	release()
	return r, err
}

// loadAndKeep runs a generator in a host's namespace and keeps its flows open until
// release is called.
func (w *world) loadAndKeep(ctx context.Context, h *netnstest.Host, g load.Generator) (r load.Result, release func(), err error) {
	text, err := load.Encode(g)
	if err != nil {
		return r, func() {}, err
	}
	p, err := w.beginRole(h, "load", text)
	if err != nil {
		return r, func() {}, err
	}
	r, err = p.wait(ctx)
	return r, p.close, err
}
