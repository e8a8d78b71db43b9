package image

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"
)

// name is the name of the node, which is the family of the task.
const name = "vpc-router"

// TestRouter runs a task from start to stop, with a tmpfs for the LocalAPI socket. Ping
// needs no capability: Docker (since 20.10) opens net.ipv4.ping_group_range to all groups.
func TestRouter(t *testing.T) {
	w := newWorld(t)
	r := w.router(t, "--tmpfs", "/var/run/tailscale:mode=0755,uid=65532,gid=65532")
	ran := t.Run("is not ready until its route is approved", func(t *testing.T) { w.approve(t, r) }) &&
		t.Run("forwards", func(t *testing.T) { w.forwards(t) })
	if !ran {
		return // the rest would fail for the same reason
	}
	t.Run("answers its own commands", func(t *testing.T) { answersCommands(t, w, r) })
	t.Run("metrics", func(t *testing.T) { checkMetrics(t, w, r) })
	t.Run("hands over when stopped", func(t *testing.T) { w.stop(t, r) })
	t.Run("keeps its secret", func(t *testing.T) { keepsSecret(t, r) })
}

// TestBareRouter runs a task without a writable folder, ICMP sockets and the image's user.
// Only ping and the tailscale command do not work, and the log has both.
func TestBareRouter(t *testing.T) {
	w := newWorld(t)
	r := w.router(t, "--user", "1000:1000", "--sysctl", "net.ipv4.ping_group_range=1 0")
	w.approve(t, r)
	for _, warning := range []string{
		`"msg":"no LocalAPI socket: the tailscale command cannot reach this router`,
		`"msg":"cannot forward ping: no ICMP socket"`,
	} {
		if !strings.Contains(r.logs(), warning) {
			t.Errorf("the log lacks %s", warning)
		}
	}
	if answer, err := w.through("tcp", w.http(t)); err != nil {
		t.Error(err)
	} else if !strings.HasPrefix(answer, "hello from the VPC") {
		t.Errorf("TCP answer: %q", answer)
	}
	if out, err := r.exec("/router", "status"); err != nil {
		t.Errorf("status: %v %s", err, out)
	}
	w.stop(t, r)
}

// approve waits until /readyz reports the unapproved route, approves it, and waits until the
// router is ready.
func (w *world) approve(t *testing.T, r container) { w.approveNode(t, r, name) }

func (w *world) approveNode(t *testing.T, r container, name string) {
	lacks := fmt.Sprintf("the tailnet has not approved %v", w.vpc)
	testwait.Until(t, "the router to report the unapproved route", func() error {
		code, body, err := w.ask(r, "/readyz")
		if err == nil && (code != http.StatusServiceUnavailable || !strings.Contains(body, lacks)) {
			err = fmt.Errorf("HTTP %d: %s", code, body)
		}
		return err
	})
	if err := w.admin.Approve(t.Context(), name, w.vpc); err != nil {
		t.Fatal(err)
	}
	testwait.Until(t, "the router to be ready", func() error {
		code, body, err := w.ask(r, "/readyz")
		if err == nil && code != http.StatusOK {
			err = fmt.Errorf("HTTP %d: %s", code, body)
		}
		return err
	})
}

func (w *world) http(t *testing.T) string { return net.JoinHostPort(w.service.ip(w.vpcNet), "8080") }

// forwards checks that the client reaches the service, and that the service sees the
// router's address.
func (w *world) forwards(t *testing.T) {
	service, router := w.service.ip(w.vpcNet), w.routerInVPC(t)
	for _, c := range []struct{ how, to, want string }{
		{"tcp", net.JoinHostPort(service, "8080"), "hello from the VPC to " + router},
		{"udp", net.JoinHostPort(service, "7"), "datagram to " + router},
		{"ping", service, ""}, // how long it took
	} {
		answer, err := w.through(c.how, c.to)
		if err != nil {
			t.Error(err)
		} else if c.want != "" && answer != c.want {
			t.Errorf("%s: %q, want %q", c.how, answer, c.want)
		}
	}
}

// routerInVPC returns the router's address in the VPC network.
func (w *world) routerInVPC(t *testing.T) string {
	t.Helper()
	list := docker(t, "network", "inspect", "--format", "{{range .Containers}}{{.IPv4Address}}\n{{end}}", w.vpcNet)
	for address := range strings.FieldsSeq(list) {
		if ip, _, _ := strings.Cut(address, "/"); ip != w.service.ip(w.vpcNet) {
			return ip
		}
	}
	t.Fatalf("no router in the VPC: %s", list)
	return ""
}

func answersCommands(t *testing.T, w *world, r container) {
	for _, c := range []struct{ argv, want string }{
		{"/router healthcheck", ""},
		{"/router healthcheck --ready", ""},
		{"/router status", w.vpc.String() + "  primary"},
		{"/tailscale status", name},
		{"router status", w.vpc.String() + "  primary"}, // both are on PATH
		{"tailscale status", name},
	} {
		out, err := r.exec(strings.Fields(c.argv)...)
		if err != nil {
			t.Errorf("%s: %v", c.argv, err)
		}
		if !strings.Contains(out, c.want) {
			t.Errorf("%s lacks %q:\n%s", c.argv, c.want, out)
		}
	}
	testwait.Until(t, "Docker's health check to pass", func() error {
		if health := r.inspect("{{.State.Health.Status}}"); health != "healthy" {
			return errors.New(health)
		}
		return nil
	})
	if r.inspect("{{.State.Running}}") != "true" {
		t.Error("the router has exited")
	}
	if _, err := r.exec("/bin/sh", "-c", "true"); err == nil {
		t.Error("the image has a shell")
	}
}

// leaveTime bounds the duration of docker stop, whose own timeout is much longer.
const leaveTime = 15 * time.Second

func (w *world) stop(t *testing.T, r container) {
	begin := time.Now()
	docker(t, "stop", "--time", "60", r.id)
	took := time.Since(begin)
	t.Logf("stopped in %v", took.Round(time.Millisecond))
	if took > leaveTime {
		t.Errorf("docker stop took %v, more than %v", took, leaveTime)
	}
	if code := r.inspect("{{.State.ExitCode}} {{.State.OOMKilled}}"); code != "0 false" {
		t.Errorf("exit code and OOM flag: %s", code)
	}
	nodes, err := w.admin.Nodes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if n, found := tailnettest.Find(nodes, name); found {
		t.Errorf("the node is still there: %v", n)
	}
}

func keepsSecret(t *testing.T, r container) {
	for place, text := range map[string]string{
		"log":     r.logs(),
		"inspect": docker(t, "inspect", r.id),
		"history": docker(t, "history", "--no-trunc", routerImage),
	} {
		// Part of the key is enough to leak it.
		if strings.Contains(text, authKey[len("tskey-auth-"):len(authKey)-6]) {
			t.Errorf("the auth key is in the container's %s", place)
		}
	}
}
