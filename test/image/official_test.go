package image

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"
)

// TestOfficialDeployments runs this image in the deployments of Tailscale's documentation of the
// official image (https://tailscale.com/kb/1282/docker): with its variables only, and the address
// of the test's control server.
func TestOfficialDeployments(t *testing.T) {
	w := newWorld(t)
	t.Run("docker run", func(t *testing.T) {
		r := w.official(t, map[string]string{},
			"--hostname", "apple", "--cap-add", "NET_ADMIN", "--cap-add", "NET_RAW")
		w.joins(t, r, "apple")
		if out, err := r.exec("tailscale", "status"); err != nil || !strings.Contains(out, "apple") {
			t.Errorf("tailscale status: %v\n%s", err, out)
		}
	})
	// Only here the ports of the application have to be given: those that the router itself listens on are closed.
	t.Run("userspace mode with an application", func(t *testing.T) {
		r := w.official(t, map[string]string{"TS_USERSPACE": "true", "TS_DEST_IP": "127.0.0.1"}, "--hostname", "cherry")
		w.joins(t, r, "cherry")
		w.reachesNeighbour(t, r, "cherry")
	})
	// The kernel receives for the application, which shares the network of the router. Only root gets
	// the capability in this image, so that the user is one line more than in the documentation.
	t.Run("compose with an application", func(t *testing.T) {
		if _, err := os.Stat("/dev/net/tun"); err != nil {
			skipOrFail(t, err.Error())
		}
		volume := fmt.Sprintf("subnetrouter-official-%d", os.Getpid())
		t.Cleanup(func() { tryDocker("volume", "rm", "--force", volume) })
		r := w.official(t, map[string]string{
			"TS_EXTRA_ARGS": "--advertise-tags=tag:subnet-router", "TS_STATE_DIR": "/var/lib/tailscale", "TS_USERSPACE": "false",
		}, "--hostname", "banana", "--volume", volume+":/var/lib/tailscale", "--device", "/dev/net/tun:/dev/net/tun",
			"--cap-add", "net_admin", "--restart", "unless-stopped", "--user", "0")
		w.joins(t, r, "banana")
		w.reachesNeighbour(t, r, "banana")
	})
}

// reachesNeighbour starts a server in the network of the router, which clients reach at its name.
func (w *world) reachesNeighbour(t *testing.T, r container, host string) {
	t.Helper()
	app := start(t, []string{"container:" + r.id}, worldImage, "service")
	var ready string
	app.announced(&ready)
	testwait.Until(t, "the application at the router's name", func() error {
		_, err := w.through("tcp", host+":8080")
		return err
	})
	if answer, err := w.through("tcp", host+":9002"); err == nil {
		t.Errorf("the router's own listener is open: %q", answer)
	}
}

// official starts the image with the variables and arguments, an auth key and the control server.
func (w *world) official(t *testing.T, env map[string]string, args ...string) container {
	t.Helper()
	env["TS_AUTHKEY"] = authKey
	env["TS_EXTRA_ARGS"] += " --login-server=" + w.admin.URL
	for name, value := range env {
		args = append(args, "--env", name+"="+value)
	}
	for _, e := range tailnettest.Env() {
		args = append(args, "--env", e)
	}
	return start(t, []string{w.cloudNet}, append(args, routerImage)...)
}

// joins waits until the router is ready, and checks that its node has the host's name and no routes.
func (w *world) joins(t *testing.T, r container, host string) {
	t.Helper()
	r.ready(t, w)
	nodes, err := w.admin.Nodes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if n, found := tailnettest.Find(nodes, host); !found || len(n.Advertised) > 0 {
		t.Errorf("the node %s: found %t, advertises %v", host, found, n.Advertised)
	}
}
