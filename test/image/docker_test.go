// Package image tests the image as ECS runs it: built by the project's script, with a
// read-only root file system, without capabilities, as an unprivileged user, on Docker
// networks without Internet access. Package world provides its surroundings.
package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"subnetrouter/internal/testwait"
)

const root = "../.."

// dockerClient is the Docker client that can build with BuildKit.
var dockerClient = filepath.Join(root, "scripts/docker")

func requireDocker(t *testing.T) {
	t.Helper()
	out, err := exec.Command(dockerClient, "version", "--format", "{{.Server.Version}}").CombinedOutput()
	if err != nil {
		skipOrFail(t, fmt.Sprintf("no Docker: %s", bytes.TrimSpace(out)))
	}
}

// skipOrFail skips the test, or fails it in CI, which has every program.
func skipOrFail(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// docker returns the output of the command, without the last newline.
func docker(t *testing.T, args ...string) string {
	t.Helper()
	out, err := tryDocker(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func tryDocker(args ...string) (string, error) {
	var stderr bytes.Buffer
	cmd := exec.Command(dockerClient, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return strings.TrimSuffix(string(out), "\n"), err
}

// container is a container that the test's clean-up removes.
type container struct {
	t  *testing.T
	id string
}

// start creates and starts a container on the networks.
func start(t *testing.T, networks []string, args ...string) container {
	t.Helper()
	c := container{t, docker(t, append([]string{"create", "--network", networks[0]}, args...)...)}
	t.Cleanup(func() { tryDocker("rm", "--force", "--volumes", c.id) })
	for _, n := range networks[1:] {
		docker(t, "network", "connect", n, c.id)
	}
	docker(t, "start", c.id)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("logs of %s:\n%s", strings.Join(args, " "), c.logs())
		}
	})
	return c
}

// logs returns the container's output.
func (c container) logs() string {
	out, _ := exec.Command(dockerClient, "logs", c.id).CombinedOutput()
	return string(out)
}

// announced waits for the JSON line that a part of the world prints once it has started.
func (c container) announced(v any) {
	c.t.Helper()
	testwait.Until(c.t, "the container to start", func() error {
		out, err := tryDocker("logs", c.id)
		if err != nil {
			return err
		}
		first, _, ok := strings.Cut(out+"\n", "\n")
		if !ok || first == "" {
			return errors.New(c.logs())
		}
		return json.Unmarshal([]byte(first), v)
	})
}

// exec runs a program in the container.
func (c container) exec(argv ...string) (string, error) {
	return tryDocker(append([]string{"exec", c.id}, argv...)...)
}

// inspect evaluates a Go template with Docker's description of the container.
func (c container) inspect(template string) string {
	c.t.Helper()
	return docker(c.t, "inspect", "--format", template, c.id)
}

func (c container) ip(network string) string {
	c.t.Helper()
	return c.inspect(fmt.Sprintf("{{(index .NetworkSettings.Networks %q).IPAddress}}", network))
}

// httpClient returns a client that sends from within the container: if the engine runs in
// a virtual machine, the test has no route to containers.
func (c container) httpClient() *http.Client {
	dial := func(_ context.Context, _, address string) (net.Conn, error) {
		cmd := exec.Command(dockerClient, "exec", "--interactive", c.id, "/world", "dial", address)
		return newProcessConn(cmd)
	}
	return &http.Client{
		Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true},
		Timeout:   time.Minute,
	}
}

// network creates a network without Internet access and returns its name.
func network(t *testing.T, role string) string {
	t.Helper()
	name := fmt.Sprintf("subnetrouter-%s-%d", role, os.Getpid())
	id := docker(t, "network", "create", "--internal", name)
	t.Cleanup(func() { tryDocker("network", "rm", id) })
	return name
}
