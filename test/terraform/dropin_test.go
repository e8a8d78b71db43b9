package terraform

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// callFrom writes the published call of Hardfin's module, unchanged but for its
// source.
func (a account) callFrom(dir, source string) {
	a.t.Helper()
	b, err := os.ReadFile("testdata/call/main.tf")
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(dir+"/main.tf", strings.Replace(string(b), "SOURCE", source, 1))
	a.write(dir+"/provider.tf", provider)
	a.init(dir)
}

// TestPublishedCall: the example is the published call, and every variable of
// Hardfin's module is there with its type and default. Its required ones may be
// left out here, as there is another way to say the same.
func TestPublishedCall(t *testing.T) {
	call := func(file string) string {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		m := regexp.MustCompile(`(?ms)^module "sandbox" \{\n  source = "[^"]+"\n(.*?)^\}$`).FindSubmatch(b)
		if m == nil {
			t.Fatalf("%s has no call", file)
		}
		return string(m[1])
	}
	if got, want := call("../../deploy/terraform/examples/hardfin/main.tf"), call("testdata/call/main.tf"); got != want {
		t.Errorf("the example's call is\n%s\nand not\n%s", got, want)
	}
	ours := map[string]string{}
	for _, v := range blocks(t, "variable") {
		ours[v.name] = argument(v.body, "type") + " " + argument(v.body, "default")
	}
	for name, want := range map[string]string{
		"name": "string null", "vpc": "string null", "subnet_group": "string null", "assign_public_ip": "bool false",
		"security_group_ids": "list(string) []", "target_ecs_cluster": "string null", "tailscale_auth_key_secret": "string null",
		"tailscale_docker_repository": "string null", "tailscale_docker_tag": "string null", "enable_execute_command": "bool false",
		"additional_routes": "list(string) []", "cpu_architecture": `string "X86_64"`, "additional_flags": `string ""`, "cpu": "number 256", "memory": "number 512",
	} {
		if ours[name] != want {
			t.Errorf("variable %s is %q, want %q", name, ours[name], want)
		}
	}
}

// TestMigration: state of a module of Hardfin's shape, and then only the source
// changes.
func TestMigration(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	a.copy("hardfin", "testdata/hardfin")
	a.callFrom("call", "../hardfin")
	a.apply("call")
	efs := a.call("elasticfilesystem", "GET", "/2015-02-01/file-systems", "", nil)
	if !strings.Contains(string(efs), "sandbox-tailscale") {
		t.Fatalf("the stand-in for Hardfin's module made no file system: %s", efs)
	}

	a.callFrom("call", "../module")
	p := a.plan("call")
	const old, now = "module.sandbox.module.subnet_router.", "module.sandbox."
	kept := map[string]bool{
		"aws_ecs_service.tailscale": false, "aws_cloudwatch_log_group.tailscale": false,
		"aws_iam_role.ecs_task_tailscale": false, "aws_iam_role.ecs_task_execution_tailscale": false,
	}
	var forgotten []string
	for _, c := range p.ResourceChanges {
		name := strings.TrimPrefix(c.Address, now)
		switch _, keep := kept[name]; {
		case keep && c.PreviousAddress == old+name && !c.does("create") && !c.does("delete"):
			kept[name] = true
		case keep:
			t.Errorf("%s, before at %q: %v", c.Address, c.PreviousAddress, c.Change.Actions)
		case strings.HasPrefix(c.Type, "aws_efs_"):
			if c.does("delete") || !c.does("forget") {
				t.Errorf("%s: %v", c.Address, c.Change.Actions)
			}
			forgotten = append(forgotten, c.Type)
		}
	}
	for name, ok := range kept {
		if !ok {
			t.Errorf("the plan does not keep %s", name)
		}
	}
	slices.Sort(forgotten)
	if got := slices.Compact(slices.Clone(forgotten)); len(got) != 3 {
		t.Errorf("the plan forgets %v, and not file system, access point and mount targets", forgotten)
	}

	a.apply("call")
	a.noChange("call")
	if got := a.services("sandbox-spot"); !slices.Equal(got, []string{"tailscale"}) {
		t.Errorf("the services are %q", got)
	}
	if after := a.call("elasticfilesystem", "GET", "/2015-02-01/file-systems", "", nil); !strings.Contains(string(after), "sandbox-tailscale") {
		t.Errorf("the file system is gone: %s", after)
	}
	if name := a.outputs("call")["tailscale_ecs_task_role_name"]; name != "ecs-task-sandbox-tailscale" {
		t.Errorf("tailscale_ecs_task_role_name = %q", name)
	}
}
