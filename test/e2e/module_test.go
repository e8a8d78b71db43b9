package e2e

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"subnetrouter/internal/tailnettest"
)

// TestModuleEnvironment runs the router with the environment of the Terraform module's task
// definition, except for the secret's name, and runs the module's health checks.
// test/terraform compares the file with the module.
func TestModuleEnvironment(t *testing.T) {
	b, err := os.ReadFile("../image/testdata/taskdefinition.json")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		ContainerDefinitions []struct {
			Environment []struct{ Name, Value string }
			HealthCheck struct{ Command []string }
		}
	}
	if err := json.Unmarshal(b, &d); err != nil || len(d.ContainerDefinitions) != 1 {
		t.Fatalf("%d containers, %v", len(d.ContainerDefinitions), err)
	}
	module := d.ContainerDefinitions[0]
	env := map[string]string{}
	for _, e := range module.Environment {
		env[e.Name] = e.Value
	}
	if env["ROUTER_AUTH_SECRET"] == "" {
		t.Fatalf("the environment names no secret: %v", env)
	}
	env["ROUTER_AUTH_SECRET"] = secretName

	w := newWorld(t, worldOptions{})
	r := w.startRouter(routerOptions{env: env})
	c := w.startClient()
	r.awaitReady()
	for _, p := range w.advertised {
		c.awaitRoute(p.String())
	}
	checkReach(t, c, dbHost)
	w.await("the node of the module's name", func(nodes []tailnettest.Node) bool {
		_, there := tailnettest.Find(nodes, env["ROUTER_HOSTNAME"])
		return there
	})
	command := module.HealthCheck.Command
	if len(command) != 3 || command[0] != "CMD" || command[1] != "/router" {
		t.Fatalf("the health check is %v", command)
	}
	for _, args := range [][]string{command[2:], append(command[2:3:3], "--started")} {
		if out, code := r.run("router", args...); code != 0 {
			t.Errorf("router %s: exit code %d: %s", strings.Join(args, " "), code, out)
		}
	}
	if code := r.stop(); code != 0 {
		t.Errorf("exit code %d after SIGTERM, want 0", code)
	}
}
