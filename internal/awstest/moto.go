package awstest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// ErrNoMoto is the error if the program moto_server is not installed.
var ErrNoMoto = errors.New("moto_server is not on PATH")

// Moto is a running moto_server. Initially, it has only a default VPC.
type Moto struct {
	url string
	cmd *exec.Cmd
}

// MotoOptions configures a moto_server. The zero value is usable.
type MotoOptions struct {
	Addr   string   // host:port; default a free port on loopback
	Prefix []string // precedes the command: "ip", "netns", "exec", "aws"
	Env    []string // moto's own settings: "MOTO_IAM_LOAD_MANAGED_POLICIES=true"
}

// RunMoto starts a moto_server that ends with the test. If the program is missing, it
// skips the test, or fails it in CI. env is as in [MotoOptions].
func RunMoto(t testing.TB, env ...string) *Moto {
	t.Helper()
	m, err := StartMoto(t.Context(), MotoOptions{Env: env})
	switch {
	case errors.Is(err, ErrNoMoto) && os.Getenv("CI") != "true":
		t.Skipf("%v: pip install 'moto[server]'", err)
	case err != nil:
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// StartMoto starts a moto_server and waits until it answers.
func StartMoto(ctx context.Context, o MotoOptions) (*Moto, error) {
	program, err := exec.LookPath("moto_server")
	if err != nil {
		return nil, ErrNoMoto
	}
	host, port, err := net.SplitHostPort(or(o.Addr, "127.0.0.1:0"))
	if err != nil {
		return nil, fmt.Errorf("starting moto_server: %w", err)
	}
	argv := append(slices.Clone(o.Prefix), program, "-H", host, "-p", port)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(motoEnv(os.Environ()), o.Env...)
	log, err := cmd.StderrPipe()
	if err != nil {
		return nil, fmt.Errorf("starting moto_server: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting moto_server: %w", err)
	}
	m := &Moto{cmd: cmd}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if m.url, err = announced(ctx, log); err != nil {
		m.Close()
		return nil, fmt.Errorf("waiting for moto_server: %w", err)
	}
	return m, nil
}

// URL is the server's address, without a trailing slash.
func (m *Moto) URL() string { return m.url }

// Env returns the environment that points the AWS SDK to this server.
func (m *Moto) Env(w World) map[string]string { return env(m.url, w.region()) }

// Close ends the process.
func (m *Moto) Close() error {
	m.cmd.Process.Kill()
	m.cmd.Wait() // returns "signal: killed"
	return nil
}

// motoEnv returns the variables that a Python program needs to start. Without proxies and
// AWS settings, it cannot reach beyond this machine.
func motoEnv(environ []string) []string {
	keep := regexp.MustCompile(`^(PATH|HOME|LANG|LC_ALL|TMPDIR|VIRTUAL_ENV|PYTHON\w*|PYENV\w*)=`)
	env := []string{"AWS_EC2_METADATA_DISABLED=true", "DO_NOT_TRACK=1", "NO_PROXY=*", "PYTHONUNBUFFERED=1"}
	for _, e := range environ {
		if keep.MatchString(e) {
			env = append(env, e)
		}
	}
	return env
}

var running = regexp.MustCompile(`Running on (http://\S+)`)

// announced reads the log until the server prints its address, and discards the rest of
// the log. The server accepts connections by then. With port 0, the log is the only source
// of the port.
func announced(ctx context.Context, log io.Reader) (string, error) {
	type result struct {
		url string
		err error
	}
	found := make(chan result, 1)
	go func() {
		var seen []string
		lines := bufio.NewScanner(log)
		for lines.Scan() {
			if match := running.FindStringSubmatch(lines.Text()); match != nil {
				found <- result{url: match[1]}
				io.Copy(io.Discard, log)
				return
			}
			seen = append(seen, lines.Text())
		}
		found <- result{err: fmt.Errorf("it exited: %s", strings.Join(seen, "\n"))}
	}()
	select {
	case r := <-found:
		return r.url, r.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}
