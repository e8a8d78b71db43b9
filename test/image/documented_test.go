package image

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"subnetrouter/internal/testwait"

	"go.yaml.in/yaml/v2"
)

// TestDockerRun runs the command of docs/docker.md in a world of its own: only the networks,
// the image and the values differ.
func TestDockerRun(t *testing.T) {
	w := newWorld(t)
	r := w.documented(t, dockerRun(t, "home-router", 0))
	w.worksAsDocumented(t, r)
	w.keepsItsIdentity(t, r)
}

// TestCompose runs the service of deploy/compose/compose.yaml. The test translates it to
// docker run, and fails on a field that it does not know.
func TestCompose(t *testing.T) {
	w := newWorld(t)
	r := w.documented(t, composeRun(t))
	w.worksAsDocumented(t, r)
	w.keepsItsIdentity(t, r)
}

// TestKernelMode runs the command of docs/docker.md for kernel mode, and variants of it in which a part
// is missing, which the message names.
func TestKernelMode(t *testing.T) {
	requireTUN(t)
	w := newWorld(t)
	args := dockerRun(t, "home-router", 1)
	override := slices.Index(args, "DAC_OVERRIDE")
	if override < 0 {
		t.Fatal("the command of the documentation has no --cap-add DAC_OVERRIDE")
	}
	fails := func(t *testing.T, args []string, message string) {
		r := w.documented(t, args)
		testwait.Until(t, "the exit", func() error {
			if state := r.inspect("{{.State.Status}} {{.State.ExitCode}}"); state != "exited 1" {
				return fmt.Errorf("%s", state)
			}
			return nil
		})
		if log := r.logs(); !strings.Contains(log, message) {
			t.Errorf("the log lacks %q:\n%s", message, log)
		}
	}
	t.Run("new privileges forbidden", func(t *testing.T) {
		fails(t, slices.Concat([]string{"--security-opt", "no-new-privileges"}, args), "no-new-privileges keeps it from user 65532")
	})
	t.Run("no capability", func(t *testing.T) {
		fails(t, slices.DeleteFunc(slices.Clone(args), func(a string) bool { return a == "NET_ADMIN" || a == "--cap-add" || a == "DAC_OVERRIDE" }), "CAP_NET_ADMIN is not granted")
	})
	t.Run("the device is root's", func(t *testing.T) {
		device := slices.Index(args, "/dev/net/tun")
		if device < 0 {
			t.Fatalf("no device in %q", args)
		}
		closed := slices.Clone(args)
		closed[device] = tunNode(t, 0o600) + ":/dev/net/tun"
		fails(t, slices.Concat(closed[:override-1], closed[override+1:]), "/dev/net/tun cannot be opened by user 65532 (permission denied)")
	})
	t.Run("as documented", func(t *testing.T) {
		r := w.documented(t, args)
		w.approveNode(t, r, "home-router")
		if log := r.logs(); !strings.Contains(log, `"mode":"kernel"`) {
			t.Errorf("not in kernel mode:\n%s", log)
		}
		noWarnings(t, r)
		if answer, err := w.through("tcp", w.http(t)); err != nil || !strings.HasPrefix(answer, "hello from the VPC") {
			t.Errorf("through the kernel: %q, %v", answer, err)
		}
	})
}

// documented starts a container by arguments of docker run, in the networks of the world and
// with its prefix and control server in place of the documented ones.
func (w *world) documented(t *testing.T, args []string) container {
	t.Helper()
	image := slices.Index(args, "IMAGE")
	if image != len(args)-1 {
		t.Fatalf("the image is not the last of %q", args)
	}
	var out []string
	for i := 0; i < image; i++ {
		switch a := args[i]; a {
		case "--network", "--name", "--restart": // the world's; unique; tests restart it themselves
			i++
		case "--detach":
		case "--env":
			i++
			switch name, _, _ := strings.Cut(args[i], "="); name {
			case "TS_AUTHKEY":
				out = append(out, a, name+"="+authKey)
			case "ROUTER_ROUTES":
				out = append(out, a, name+"="+w.vpc.String())
			case "ROUTER_LISTEN": // the test asks from another container
			default:
				out = append(out, a, args[i])
			}
		case "--volume":
			i++
			volume, folder, _ := strings.Cut(args[i], ":")
			volume = fmt.Sprintf("%s-%d-%d", volume, os.Getpid(), len(t.Name()))
			t.Cleanup(func() { tryDocker("volume", "rm", "--force", volume) })
			out = append(out, a, volume+":"+folder)
		default:
			out = append(out, a)
		}
	}
	for name, value := range w.env {
		if !strings.HasPrefix(name, "ROUTER_AUTH") && name != "ROUTER_ROUTES" && name != "ROUTER_HOSTNAME" {
			out = append(out, "--env", name+"="+value)
		}
	}
	return start(t, []string{w.cloudNet, w.vpcNet}, append(out, routerImage)...)
}

// worksAsDocumented checks a router that has just started: it forwards, its commands are on
// PATH, and nothing warns.
func (w *world) worksAsDocumented(t *testing.T, r container) {
	t.Helper()
	w.approveNode(t, r, "home-router")
	w.forwards(t)
	for _, c := range []struct{ argv, want string }{{"router status", "home-router: ready"}, {"tailscale status", "home-router"}} {
		if out, err := r.exec(strings.Fields(c.argv)...); err != nil || !strings.Contains(out, c.want) {
			t.Errorf("%s: %v\n%s", c.argv, err, out)
		}
	}
	noWarnings(t, r)
}

// keepsItsIdentity restarts the container, which must not need approval again.
func (w *world) keepsItsIdentity(t *testing.T, r container) {
	t.Helper()
	docker(t, "restart", "--time", "60", r.id)
	r.ready(t, w)
	w.oneNode(t, "home-router")
}

// oneNode fails if the tailnet has two nodes whose names begin with a router's.
func (w *world) oneNode(t *testing.T, router string) {
	t.Helper()
	nodes, err := w.admin.Nodes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	routers := 0
	for _, n := range nodes {
		if strings.HasPrefix(n.Name, router) {
			routers++
		}
	}
	if routers != 1 {
		t.Errorf("%d nodes named %s: the volume does not keep the identity", routers, router)
	}
}

// noWarnings fails if the router warned in the deployment that the documentation recommends.
func noWarnings(t *testing.T, r container) {
	t.Helper()
	for line := range strings.Lines(r.logs()) {
		// The test approves the route only after it has seen that it is not approved.
		if strings.Contains(line, `"level":"WARN"`) && !strings.Contains(line, "approv") {
			t.Errorf("a warning: %s", line)
		}
	}
}

var runBlock = regexp.MustCompile("(?s)```sh\n((?:export [^\n]+\n)?docker run .*?)```")

// dockerRun returns the arguments of the nth docker run of docs/docker.md.
func dockerRun(t *testing.T, hostname string, n int) []string {
	t.Helper()
	blocks := runBlock.FindAllStringSubmatch(string(read(t, filepath.Join(root, "docs/docker.md"))), -1)
	if len(blocks) <= n {
		t.Fatalf("docs/docker.md has %d blocks with docker run", len(blocks))
	}
	// The shell splits the words. A function takes the place of docker.
	shell := exec.Command("sh", "-euc", `docker() { shift; printf '%s\n' "$@"; }`+"\n"+blocks[n][1])
	out, err := shell.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	args := strings.Split(strings.TrimSpace(string(out)), "\n")
	if !slices.Contains(args, "ROUTER_HOSTNAME="+hostname) {
		t.Fatalf("the command has another hostname: %q", args)
	}
	return args
}

// composeRun translates the service of compose.yaml to arguments of docker run.
func composeRun(t *testing.T) (args []string) {
	t.Helper()
	var file struct {
		Services map[string]struct {
			Image           string
			Restart         string
			NetworkMode     string   `yaml:"network_mode"`
			ReadOnly        bool     `yaml:"read_only"`
			CapDrop         []string `yaml:"cap_drop"`
			SecurityOpt     []string `yaml:"security_opt"`
			Environment     map[string]string
			Volumes         []string
			Tmpfs           []string
			StopGracePeriod string `yaml:"stop_grace_period"`
		}
		Volumes map[string]struct{}
	}
	if err := yaml.UnmarshalStrict(read(t, filepath.Join(root, "deploy/compose/compose.yaml")), &file); err != nil {
		t.Fatal(err)
	}
	s, ok := file.Services["router"]
	if !ok || len(file.Services) != 1 || !s.ReadOnly || s.NetworkMode != "host" {
		t.Fatalf("compose.yaml: %+v", file)
	}
	args = []string{"--read-only", "--stop-timeout", strings.TrimSuffix(s.StopGracePeriod, "s")}
	add := func(flag string, values []string) {
		for _, v := range values {
			args = append(args, flag, v)
		}
	}
	add("--cap-drop", s.CapDrop)
	add("--security-opt", s.SecurityOpt)
	add("--volume", s.Volumes)
	add("--tmpfs", s.Tmpfs)
	defaults := regexp.MustCompile(`\$\{\w+:[-?](.*?)\}`)
	for name, value := range s.Environment {
		args = append(args, "--env", name+"="+defaults.ReplaceAllString(value, "$1"))
	}
	return append(args, "IMAGE")
}

// TestPushStampsTheVersion: the first tag that is a version is the binary's, and the last line
// of output can be used in a task definition. The programs that build and push are replaced.
func TestPushStampsTheVersion(t *testing.T) {
	for tags, want := range map[string]string{
		"1.2.3":         "1.2.3",
		"latest v1.2.3": "1.2.3",
		"1.2.3-rc.1":    "1.2.3-rc.1",
		"latest":        "dev",
		"1.2":           "dev",
	} {
		dir := t.TempDir()
		write := func(name, text string) {
			t.Helper()
			if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		write("scripts/push", string(read(t, filepath.Join(root, "scripts/push"))))
		write("scripts/image", "#!/bin/sh\necho \"$VERSION\" >>stamped\n")
		write("scripts/docker", "#!/bin/sh\n")
		write("bin/go", "#!/bin/sh\n")
		push := exec.Command("scripts/push", append([]string{"registry/name"}, strings.Fields(tags)...)...)
		push.Path = filepath.Join(dir, "scripts/push")
		push.Dir = dir
		push.Env = append(os.Environ(), "VERSION=dev", "PLATFORMS=linux/amd64", "PATH="+filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
		if out, err := push.CombinedOutput(); err != nil {
			t.Errorf("TAGS=%q: %v\n%s", tags, err, out)
			continue
		}
		if got := strings.TrimSpace(string(read(t, filepath.Join(dir, "stamped")))); got != want {
			t.Errorf("TAGS=%q stamps %q, want %q", tags, got, want)
		}
	}
}
