package image

import (
	"maps"
	"os"
	"strings"
	"testing"
)

// TestTaskOnEC2 runs the task of the Terraform module's example ec2, with its user,
// capabilities, device and sysctls, in a network namespace of its own as awsvpc gives it.
// The kernel forwards the packets.
func TestTaskOnEC2(t *testing.T) {
	requireDocker(t)
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		skipOrFail(t, err.Error())
	}
	task := readTaskDefinition(t, "taskdefinition-ec2.json")
	if task.NetworkMode != "awsvpc" {
		t.Fatalf("the network mode is %q: this test gives the task its own namespace", task.NetworkMode)
	}
	engineSocket(t)
	w := newWorld(t)
	env := maps.Clone(w.env)
	maps.Copy(env, w.tasks[0])
	env["ROUTER_HOSTNAME"] = name
	r := task.run(t, routerImage, []string{w.cloudNet, w.vpcNet}, env, nil)
	w.approve(t, r)
	if logs := r.logs(); !strings.Contains(logs, `"mode":"kernel"`) {
		t.Errorf("the log does not report kernel mode:\n%s", logs)
	}
	w.forwards(t)
	r.healthy(t)
	w.stop(t, r)
}
