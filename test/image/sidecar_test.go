package image

import (
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"strings"
	"testing"

	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"
)

// TestSidecar runs a router as the sidecar of an application, in one network as the containers of
// a task are, and stops both in the order of ECS.
func TestSidecar(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		skipOrFail(t, err.Error())
	}
	w := newWorld(t)
	r := w.router(t,
		"--env", "ROUTER_ROUTES=none", "--env", "ROUTER_EGRESS=5432=laptop:8080",
		"--env", "ROUTER_SOCKS5_LISTEN=:1055", "--env", "ROUTER_HTTP_PROXY_LISTEN=:1055",
		// The name of port 81 leads to the task's credentials.
		"--env", "ROUTER_SERVE=80=localhost:8080,81=credentials.test:80", "--add-host", "credentials.test:169.254.170.2")
	r.ready(t, w)
	app := start(t, []string{"container:" + r.id}, "--cap-add", "NET_ADMIN", worldImage, "app")
	var ready string
	app.announced(&ready)
	ran := t.Run("the application reaches the tailnet", func(t *testing.T) { w.reachesTailnet(t, app) }) &&
		t.Run("the tailnet reaches the application", func(t *testing.T) { w.reachesApplication(t, app, r) })
	if !ran {
		return // the rest would fail for the same reason
	}
	t.Run("the application stops first", func(t *testing.T) { w.stopTask(t, app, r) })
}

// reachesTailnet runs curl in the container of the application.
func (w *world) reachesTailnet(t *testing.T, app container) {
	nodes, err := w.admin.Nodes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	laptop, found := tailnettest.Find(nodes, "laptop")
	if !found || len(laptop.IPs) != 2 {
		t.Fatalf("the laptop is %+v", laptop)
	}
	const want = "hello from the laptop"
	curl := func(args ...string) error {
		out, err := app.exec(append([]string{"/curl", "--globoff", "--silent", "--show-error", "--max-time", "10"}, args...)...)
		if err == nil && out != want {
			err = fmt.Errorf("%q, want %q", out, want)
		}
		return err
	}
	for _, host := range []string{"laptop", laptop.IPs[0].String(), "[" + laptop.IPs[1].String() + "]"} {
		for name, way := range map[string][]string{
			"SOCKS5":  {"--proxy", "socks5h://localhost:1055"},
			"HTTP":    {"--proxy", "http://localhost:1055"},
			"CONNECT": {"--proxy", "http://localhost:1055", "--proxytunnel"},
		} {
			testwait.Until(t, name+" to "+host, func() error { return curl(append(way, "http://"+host+":8080/")...) })
		}
	}
	if err := curl("http://localhost:5432/"); err != nil {
		t.Errorf("the forwarded port: %v", err)
	}
	if err := curl("--proxy", "socks5h://localhost:1055", "http://"+w.http(t)+"/"); err == nil {
		t.Error("the proxy leads to the VPC")
	}
}

// reachesApplication sends from the client in the tailnet.
func (w *world) reachesApplication(t *testing.T, app, r container) {
	const want = "hello from the application"
	testwait.Until(t, "the served port", func() error {
		answer, err := w.through("tcp", name+":80")
		if err == nil && answer != want {
			err = fmt.Errorf("%q, want %q", answer, want)
		}
		return err
	})
	for _, url := range []string{"http://127.0.0.1:8081/", "http://169.254.170.2/"} {
		if out, err := app.exec("/curl", "--silent", "--show-error", "--max-time", "10", url); err != nil || out != want {
			t.Errorf("the application itself at %s: %q, %v", url, out, err)
		}
	}
	for _, to := range []string{name + ":81", name + ":8081", name + ":8080", name + ":1055", name + ":5432", name + ":9002", "169.254.170.2:80"} {
		if answer, err := w.through("tcp", to); err == nil {
			t.Errorf("%s is open: %q", to, answer)
		}
	}
	// The name was found, so that only the deny list keeps the port closed.
	r.logged(t, "169.254.170.2:80 must not be reached from the tailnet")
}

// stopTask stops the containers in the order of ECS, the reverse of that in which they started,
// while a client waits for an answer of the application, which downloads from the tailnet.
func (w *world) stopTask(t *testing.T, app, r container) {
	const size = len("held ") + 4<<20
	served := make(chan error, 1)
	go func() {
		answer, err := w.through("tcp", name+":80/held&for=1m")
		if err == nil && len(answer) != size {
			err = fmt.Errorf("%d bytes, want %d", len(answer), size)
		}
		served <- err
	}()
	args := url.Values{"arg": {"--silent", "--proxy", "socks5h://localhost:1055", "http://laptop:8080/held"}}
	res, err := app.httpClient().Post("http://127.0.0.1:8080/download?"+args.Encode(), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	app.logged(t, `"holding"`)
	w.client.logged(t, `"holding"`)

	stopped := make(chan error, 1)
	go func() {
		_, err := tryDocker("stop", "--time", "60", app.id)
		stopped <- err
	}()
	app.logged(t, `"stopping"`)
	if res, err = w.client.httpClient().Post("http://127.0.0.1:8080/release", "", nil); err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	w.stop(t, r)
	if err := <-served; err != nil {
		t.Errorf("the answer of the served port: %v", err)
	}
	if log, want := app.logs(), fmt.Sprintf(`{"downloaded":%d,"err":null}`, size); !strings.Contains(log, want) {
		t.Errorf("the application's log lacks %s:\n%s", want, log)
	}
	if code := app.inspect("{{.State.ExitCode}}"); code != "0" {
		t.Errorf("the application's exit code is %s", code)
	}
}

// logged waits until the container has printed the text.
func (c container) logged(t *testing.T, text string) {
	t.Helper()
	testwait.Until(t, text, func() error {
		if log := c.logs(); !strings.Contains(log, text) {
			return errors.New(log)
		}
		return nil
	})
}
