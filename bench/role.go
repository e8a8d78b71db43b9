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

// This program runs itself inside of namespaces, where all of its threads are
// at home and have open files of their own. Such a part says one line, its
// [answer], and ends when its standard input does, or with whoever started it.
const roleWord = "bench-role"

type answer struct {
	Result load.Result
	Err    string
}

// playRole is main for such a part. It returns false where args ask for none.
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
		err = fmt.Errorf("no part is called %q", args[2])
	}
	if err != nil {
		a.Err = err.Error()
	}
	json.NewEncoder(os.Stdout).Encode(a)
	<-ended
	return true
}

// part is a part of this program in another namespace.
type part struct {
	*process
	lifeline io.Closer
	out      *bufio.Reader
	done     func()
}

// startRole starts a part and waits for its line. It lives until close, or the
// end of the world.
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
	// A pipe of our own: that of exec.Cmd is closed when the process ends, read or not.
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
			return load.Result{}, fmt.Errorf("reading what a part found: %w; it said: %s", l.err, p.said.last())
		}
		var a answer
		if err := json.Unmarshal(l.text, &a); err != nil {
			return load.Result{}, fmt.Errorf("reading what a part found: %w", err)
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

// load runs a generator in the client and ends it.
func (w *world) load(ctx context.Context, g load.Generator) (load.Result, error) {
	r, release, err := w.hold(ctx, g)
	release()
	return r, err
}

// hold runs a generator in the client and keeps what it has open until release.
func (w *world) hold(ctx context.Context, g load.Generator) (r load.Result, release func(), err error) {
	text, err := load.Encode(g)
	if err != nil {
		return r, func() {}, err
	}
	p, err := w.beginRole(w.client, "load", text)
	if err != nil {
		return r, func() {}, err
	}
	r, err = p.wait(ctx)
	return r, p.close, err
}
