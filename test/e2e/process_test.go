package e2e

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"subnetrouter/internal/netnstest"
	"subnetrouter/internal/ops"
	"subnetrouter/internal/problem"
	"subnetrouter/internal/secret"
	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"
)

// process is a program that the test's clean-up ends.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  *buffer
	done chan struct{}
	err  error
}

func start(t *testing.T, name string, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, out: new(buffer), done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.out, p.out
	// A process group of its own, so that wrappers of the program end too. No
	// Pdeathsig: it fires when the forking thread exits, and netnstest ends threads.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting %s: %v", name, err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-p.done
		if strings.Contains(p.out.String(), "WARNING: DATA RACE") {
			t.Errorf("the race detector reported a race in %s", name)
		}
		if t.Failed() {
			t.Logf("output of %s:\n%s", name, p.out.String())
		}
	})
	return p
}

// stop sends SIGTERM and returns the exit code.
func (p *process) stop() int {
	p.t.Helper()
	p.cmd.Process.Signal(syscall.SIGTERM)
	return p.wait()
}

// buffer is a bytes.Buffer for concurrent use.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

type testWriter struct {
	t    *testing.T
	name string
}

func (w testWriter) Write(p []byte) (int, error) {
	if w.t.Context().Err() == nil {
		w.t.Logf("%s: %s", w.name, bytes.TrimSpace(p))
	}
	return len(p), nil
}

// router is a running router binary.
type router struct {
	*process
	w    *world
	host *netnstest.Host
	env  []string
	http *http.Client
}

type routerOptions struct {
	root bool              // in kernel mode, as the namespace's root with all capabilities, else unprivileged
	env  map[string]string // in addition to that of ECS and the module
	host *netnstest.Host
	key  secret.String // if set, the router gets key and routes directly, without AWS and ECS
	etc  string        // a folder that stands in for /etc
	// program is the router's binary. Default: the one under test.
	program string
}

// startRouter runs the binary with the environment that an ECS task has.
func (w *world) startRouter(o routerOptions) *router {
	t := w.t
	t.Helper()
	if o.host == nil {
		o.host = w.routerHost
	}
	socket := filepath.Join(w.sharedDir(), "tailscaled.sock")
	env := map[string]string{
		"ECS_CONTAINER_METADATA_URI_V4":          w.metadata.URI(),
		"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/credentials/role",
		"AWS_REGION":                             w.aws.Region,
		"AWS_ENDPOINT_URL":                       w.moto.URL(),
		"ROUTER_AUTH_SECRET":                     secretName,
		"ROUTER_CONTROL_URL":                     w.control.ControlURL(),
		"ROUTER_SOCKET":                          socket,
		"ROUTER_DRAIN_TIMEOUT":                   "20s",
		"TS_PANIC_IF_HIT_MAIN_CONTROL":           "true",
	}
	if o.key != "" {
		env = map[string]string{
			"TS_AUTHKEY":                   o.key.Reveal(),
			"ROUTER_ROUTES":                "10.0.0.0/16",
			"ROUTER_CONTROL_URL":           w.control.ControlURL(),
			"ROUTER_SOCKET":                socket,
			"TS_PANIC_IF_HIT_MAIN_CONTROL": "true",
		}
	}
	maps.Copy(env, o.env)
	r := &router{w: w, host: o.host}
	for k, v := range env {
		r.env = append(r.env, k+"="+v)
	}
	if o.root && o.env["ROUTER_MODE"] == "" {
		r.env = append(r.env, "ROUTER_MODE=kernel")
	}
	args := []string{cmp.Or(o.program, binary("router"))}
	if !o.root {
		args = append([]string{"setpriv", "--reuid=65532", "--regid=65532", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"}, args...)
	}
	if o.etc != "" { // `ip netns exec` has a mount namespace of its own
		args = append([]string{"sh", "-c", `mount --bind "$0" /etc && exec "$@"`, o.etc}, args...)
	}
	cmd := o.host.Command(context.WithoutCancel(t.Context()), args[0], args[1:]...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, r.env...)
	r.process = start(t, "router", cmd)
	r.http = &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{DialContext: o.host.Dial, DisableKeepAlives: true},
	}
	return r
}

// sharedDir creates a folder that an unprivileged router can write to, unlike those of
// t.TempDir.
func (w *world) sharedDir() string {
	dir, err := os.MkdirTemp("", "e2e-shared-")
	if err != nil {
		w.t.Fatal(err)
	}
	os.Chmod(dir, 0o777)
	w.t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (r *router) get(path string) (code int, body string) {
	r.t.Helper()
	resp, err := r.http.Get("http://127.0.0.1:9002" + path)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	b.ReadFrom(resp.Body)
	return resp.StatusCode, b.String()
}

// awaitReady waits until /readyz returns 200.
func (r *router) awaitReady() {
	r.t.Helper()
	r.awaitReadyz("the router to be ready", func(code int, _ ops.Readiness) bool { return code == http.StatusOK })
}

func (r *router) awaitReadyz(name string, cond func(code int, body ops.Readiness) bool) ops.Readiness {
	r.t.Helper()
	var got ops.Readiness
	testwait.Until(r.t, name, func() error {
		code, body := r.get("/readyz")
		got = ops.Readiness{}
		if json.Unmarshal([]byte(body), &got) == nil && cond(code, got) {
			return nil
		}
		return r.unlessEnded(fmt.Errorf("/readyz returns %d %s", code, body))
	})
	return got
}

// unlessEnded returns err, so that a wait continues, or stops the wait if the process has
// exited.
func (p *process) unlessEnded(err error) error {
	select {
	case <-p.done:
		return testwait.Stop(fmt.Errorf("the process exited: %w", cmp.Or(p.err, errors.New("exit code 0"))))
	default:
		return err
	}
}

// awaitReason waits until /readyz gives a reason with this code, and text in its message or fix.
func (r *router) awaitReason(reason problem.Code, text string) {
	r.t.Helper()
	r.awaitReadyz(string(reason)+" with "+text, func(code int, body ops.Readiness) bool {
		return code == http.StatusServiceUnavailable && slices.ContainsFunc(body.Reasons, func(why ops.Reason) bool {
			return why.Code == reason && strings.Contains(why.Message+"; "+why.Fix, text)
		})
	})
}

func (r *router) awaitLog(text string) {
	r.t.Helper()
	testwait.Until(r.t, "the log line "+text, func() error {
		// In this order: once the process has exited, out is complete.
		err := r.unlessEnded(errors.New("not in the log"))
		if strings.Contains(r.out.String(), text) {
			return nil
		}
		return err
	})
}

// run runs another command of the binary in the router's namespace, with its environment.
func (r *router) run(name string, args ...string) (out string, code int) {
	r.t.Helper()
	cmd := r.host.Command(testwait.Context(r.t), binary(name), args...)
	cmd.Env = r.env
	b, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		r.t.Fatalf("running %s %v: %v", name, args, err)
	}
	return string(b), cmd.ProcessState.ExitCode()
}

// client is an unmodified Tailscale client in kernel mode.
type client struct {
	*process
	w      *world
	socket string
}

func (w *world) startClient() *client {
	w.t.Helper()
	return w.startClientWith(false)
}

// startClientWith starts a client that accepts the tailnet's DNS settings, or not. If it does, it has an
// /etc of its own, which [client.resolving] shares.
func (w *world) startClientWith(dns bool) *client {
	t := w.t
	t.Helper()
	dir := t.TempDir()
	c := &client{w: w, socket: filepath.Join(dir, "client.sock")}
	command := []string{binary("tailscaled"), "--statedir=" + dir, "--socket=" + c.socket, "--tun=tailscale0", "--port=41641"}
	if dns {
		// `ip netns exec` has a mount namespace of its own.
		command = append([]string{"sh", "-c", `mount --bind "$0" /etc && exec "$@"`, ownEtc(t)}, command...)
	}
	cmd := w.client.Command(context.WithoutCancel(t.Context()), command[0], command[1:]...)
	cmd.Env = append(os.Environ(), tailnettest.Env()...)
	c.process = start(t, "client", cmd)
	c.tailscale("up", "--login-server="+w.control.ControlURL(), "--auth-key="+w.clientKey.Reveal(),
		"--accept-routes", "--accept-dns="+strconv.FormatBool(dns), "--hostname=laptop", "--timeout=30s")
	w.await("the client to be online", func(nodes []tailnettest.Node) bool {
		n, ok := tailnettest.Find(nodes, "laptop")
		return ok && n.Online
	})
	return c
}

// ownEtc creates a folder that can stand in for /etc, with the files that name resolution needs.
func ownEtc(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"resolv.conf": "nameserver 192.0.2.53\n", "hosts": "127.0.0.1 localhost\n", "nsswitch.conf": "hosts: files dns\n",
		"passwd": "root:x:0:0::/root:/bin/sh\n", "group": "root:x:0:\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// resolving runs a program on the client's machine, with its name resolution.
func (c *client) resolving(name string, args ...string) (out string, code int) {
	c.t.Helper()
	return c.sh("nsenter", append([]string{"--target", strconv.Itoa(c.cmd.Process.Pid), "--mount", name}, args...)...)
}

func (c *client) tailscale(args ...string) string {
	c.t.Helper()
	return tailscale(c.t, c.socket, args...)
}

// tailscale runs the tailscale CLI once tailscaled listens on its socket.
func tailscale(t *testing.T, socket string, args ...string) (out string) {
	t.Helper()
	testwait.Until(t, "tailscaled", func() error {
		b, err := exec.Command(binary("tailscale"), append([]string{"--socket=" + socket}, args...)...).CombinedOutput()
		if out = string(b); err == nil {
			return nil
		}
		err = fmt.Errorf("tailscale %s: %w: %s", strings.Join(args, " "), err, out)
		if strings.Contains(out, "is it running") || strings.Contains(out, "failed to connect") {
			return err
		}
		return testwait.Stop(err)
	})
	return out
}

// sh runs a program on the client's machine.
func (c *client) sh(name string, args ...string) (out string, code int) {
	c.t.Helper()
	cmd := c.w.client.Command(testwait.Context(c.t), name, args...)
	b, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		c.t.Fatalf("running %s: %v", name, err)
	}
	return string(b), cmd.ProcessState.ExitCode()
}

// awaitRoute waits until the client's kernel routes prefix to the tailnet.
func (c *client) awaitRoute(prefix string) {
	c.t.Helper()
	testwait.Until(c.t, "the client to accept "+prefix, func() error {
		if routes := c.routes(prefix); !strings.Contains(routes, prefix) {
			return fmt.Errorf("it has:\n%s", routes)
		}
		return nil
	})
}

// awaitNoRoute waits until the client's kernel has no route for prefix.
func (c *client) awaitNoRoute(prefix string) {
	c.t.Helper()
	testwait.Until(c.t, "the client to lose "+prefix, func() error {
		if routes := c.routes(prefix); strings.Contains(routes, prefix) {
			return fmt.Errorf("it has:\n%s", routes)
		}
		return nil
	})
}

// routes returns the kernel routes of the client to the tailnet, in prefix's family.
func (c *client) routes(prefix string) string {
	c.t.Helper()
	family := "-4"
	if strings.Contains(prefix, ":") {
		family = "-6"
	}
	out, _ := c.sh("ip", family, "route", "show", "table", "52")
	return out
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(fmt.Sprint("test set-up: ", err))
	}
	return v
}

// wait waits for the process to exit and returns its exit code.
func (p *process) wait() int {
	p.t.Helper()
	testwait.Receive(p.t, "the process to end", p.done)
	return p.cmd.ProcessState.ExitCode()
}

func (r *router) hasLogged(texts ...string) {
	r.t.Helper()
	for _, text := range texts {
		if !strings.Contains(r.out.String(), text) {
			r.t.Errorf("the log lacks %s", text)
		}
	}
}
