package image

import (
	"archive/tar"
	"os"
	"path/filepath"
	"strings"
	"syscall"
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
	// The kernel receives for the application, which shares the network of the router.
	compose := func(t *testing.T, state, host string, args ...string) container {
		return w.official(t, map[string]string{
			"TS_EXTRA_ARGS": "--advertise-tags=tag:subnet-router", "TS_STATE_DIR": "/var/lib/tailscale", "TS_USERSPACE": "false",
		}, append([]string{"--hostname", host, "--volume", state + ":/var/lib/tailscale", "--device", "/dev/net/tun:/dev/net/tun",
			"--cap-add", "net_admin", "--restart", "unless-stopped"}, args...)...)
	}
	t.Run("compose with an application", func(t *testing.T) {
		requireTUN(t)
		state := hostFolder(t) // Docker creates it
		r := compose(t, state, "banana")
		w.joins(t, r, "banana")
		w.reachesNeighbour(t, r, "banana")
		if owner(t, state) != 65532 || owner(t, filepath.Join(state, "tailscaled.state")) != 65532 {
			t.Errorf("the folder of the host belongs to %d, the state to %d", owner(t, state), owner(t, filepath.Join(state, "tailscaled.state")))
		}
		if log := r.logs(); strings.Contains(log, `"level":"ERROR"`) {
			t.Errorf("an error:\n%s", log)
		}
	})
	// As the official image leaves it: the router of root writes the same file.
	t.Run("compose with the state of a node", func(t *testing.T) {
		requireTUN(t)
		state := hostFolder(t)
		before := compose(t, state, "damson", "--user", "0")
		w.joins(t, before, "damson")
		docker(t, "stop", "--time", "60", before.id)
		file := filepath.Join(state, "tailscaled.state")
		if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 || owner(t, file) != 0 || owner(t, state) != 0 {
			t.Fatalf("the state before: %v, %v", info, err)
		}
		if err := os.Symlink("/etc/passwd", filepath.Join(state, "tailscaled.log.conf")); err != nil {
			t.Fatal(err)
		}
		r := compose(t, state, "damson")
		w.joins(t, r, "damson")
		w.oneNode(t, "damson")
		if owner(t, file) != 65532 {
			t.Errorf("the state belongs to %d", owner(t, file))
		}
		if log := r.logs(); !strings.Contains(log, `"msg":"took over the state folder, with the node's files in it","folder":"/var/lib/tailscale","owner_before":0,"owner":65532`) {
			t.Errorf("the log does not report the folder:\n%s", log)
		}
		if header := r.file(t, "/etc/passwd"); header.Uid != 0 {
			t.Errorf("a file outside of the folder belongs to %d", header.Uid)
		}
	})
}

func requireTUN(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		skipOrFail(t, err.Error())
	}
}

// hostFolder returns the path of a folder that is not there, for a volume.
func hostFolder(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		skipOrFail(t, "needs root, for a folder of the host that Docker creates")
	}
	return filepath.Join(t.TempDir(), "state")
}

func owner(t *testing.T, path string) int {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return int(info.Sys().(*syscall.Stat_t).Uid)
}

// file returns the header of a file of the container.
func (c container) file(t *testing.T, path string) *tar.Header {
	t.Helper()
	header, err := tar.NewReader(strings.NewReader(docker(t, "cp", c.id+":"+path, "-"))).Next()
	if err != nil {
		t.Fatal(err)
	}
	return header
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
