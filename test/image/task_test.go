package image

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// taskDefinition holds the fields of a task definition that ECS passes to the engine. The
// platform handles the log driver and volumes.
type taskDefinition struct {
	CPU, Memory          string
	NetworkMode          string
	ContainerDefinitions []struct {
		User                   string
		Environment            []struct{ Name, Value string }
		ReadonlyRootFilesystem bool
		LinuxParameters        struct {
			InitProcessEnabled bool
			Capabilities       struct{ Add, Drop []string }
			Devices            []struct {
				HostPath, ContainerPath string
				Permissions             []string
			}
		}
		SystemControls []struct{ Namespace, Value string }
		Ulimits        []struct {
			Name                 string
			SoftLimit, HardLimit int
		}
		StopTimeout int
		HealthCheck struct {
			Command                                 []string
			Interval, Timeout, Retries, StartPeriod int
		}
		PortMappings []struct {
			ContainerPort int
			Protocol      string
		}
		DockerLabels map[string]string
	}
}

// readTaskDefinition reads a task definition of the Terraform module in testdata, which
// test/terraform compares with the module's.
func readTaskDefinition(t *testing.T, file string) (d taskDefinition) {
	t.Helper()
	b, err := os.ReadFile("testdata/" + file)
	if err == nil {
		err = json.Unmarshal(b, &d)
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(d.ContainerDefinitions) != 1 {
		t.Fatalf("the task has %d containers", len(d.ContainerDefinitions))
	}
	return d
}

// run starts the task's container on the networks, as ECS does. env overrides the task's
// environment. It uses the engine's API, because the client has no flag for a health check
// without a shell.
func (d taskDefinition) run(t *testing.T, image string, networks []string, env, labels map[string]string) container {
	t.Helper()
	def := d.ContainerDefinitions[0]
	number := func(s string) int64 {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	type object = map[string]any
	all := map[string]string{}
	for _, e := range def.Environment {
		all[e.Name] = e.Value
	}
	maps.Copy(all, env)
	var environ []string
	for k, v := range all {
		environ = append(environ, k+"="+v)
	}
	allLabels := map[string]string{}
	maps.Copy(allLabels, def.DockerLabels)
	maps.Copy(allLabels, labels)
	sysctls := map[string]string{}
	for _, s := range def.SystemControls {
		sysctls[s.Namespace] = s.Value
	}
	var allowed syscall.Rlimit // on this machine, which may allow less than Fargate
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &allowed); err != nil {
		t.Fatal(err)
	}
	var ulimits []object
	for _, u := range def.Ulimits {
		if u.Name == "nofile" && uint64(u.HardLimit) > allowed.Max {
			t.Logf("this machine allows %d open files, not %d", allowed.Max, u.HardLimit)
			u.SoftLimit, u.HardLimit = min(u.SoftLimit, int(allowed.Max)), int(allowed.Max)
		}
		ulimits = append(ulimits, object{"Name": u.Name, "Soft": u.SoftLimit, "Hard": u.HardLimit})
	}
	ports := object{}
	for _, p := range def.PortMappings {
		ports[fmt.Sprintf("%d/%s", p.ContainerPort, p.Protocol)] = object{}
	}
	devices := []object{}
	for _, d := range def.LinuxParameters.Devices {
		permissions := ""
		for _, p := range d.Permissions {
			permissions += p[:1] // "read" is "r" to the engine
		}
		devices = append(devices, object{"PathOnHost": d.HostPath, "PathInContainer": d.ContainerPath, "CgroupPermissions": permissions})
	}
	second := int(time.Second)
	c := container{t, create(t, object{
		"Image": image, "User": def.User, "Env": environ, "Labels": allLabels, "ExposedPorts": ports,
		"StopTimeout": def.StopTimeout,
		"Healthcheck": object{
			"Test": def.HealthCheck.Command, "Interval": def.HealthCheck.Interval * second, "Timeout": def.HealthCheck.Timeout * second,
			"Retries": def.HealthCheck.Retries, "StartPeriod": def.HealthCheck.StartPeriod * second,
		},
		"HostConfig": object{
			"NetworkMode": networks[0], "ReadonlyRootfs": def.ReadonlyRootFilesystem, "Init": def.LinuxParameters.InitProcessEnabled,
			"CapAdd": def.LinuxParameters.Capabilities.Add, "CapDrop": def.LinuxParameters.Capabilities.Drop,
			"Sysctls": sysctls, "Ulimits": ulimits, "Devices": devices,
			"NanoCpus": number(d.CPU) * 1e9 / 1024, "Memory": number(d.Memory) << 20,
		},
	})}
	t.Cleanup(func() { tryDocker("rm", "--force", "--volumes", c.id) })
	for _, n := range networks[1:] {
		docker(t, "network", "connect", n, c.id)
	}
	docker(t, "start", c.id)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("logs of a task:\n%s", c.logs())
		}
	})
	return c
}

// create creates a container and returns its ID.
func create(t *testing.T, config any) string {
	t.Helper()
	path := engineSocket(t)
	engine := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}}
	body, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	res, err := engine.Post("http://engine/containers/create", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	var made struct{ ID string }
	if err != nil || res.StatusCode != http.StatusCreated || json.Unmarshal(answer, &made) != nil {
		t.Fatalf("creating a container: HTTP %d, %v: %s", res.StatusCode, err, answer)
	}
	return made.ID
}

// engineSocket returns the path of the engine's socket. It skips the test if the engine is
// on another machine, since Prometheus then cannot discover containers.
func engineSocket(t *testing.T) string {
	t.Helper()
	endpoint := os.Getenv("DOCKER_HOST")
	if endpoint == "" {
		endpoint = docker(t, "context", "inspect", "--format", "{{.Endpoints.docker.Host}}")
	}
	path, ok := strings.CutPrefix(endpoint, "unix://")
	if !ok {
		skipOrFail(t, fmt.Sprintf("the engine at %s is not on this machine", endpoint))
	}
	return path
}
