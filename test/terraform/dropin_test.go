package terraform

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// callFrom writes the published call of Hardfin's module, with another source.
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

// TestPublishedCall: the example is the published call, and the module has every variable
// of Hardfin's module with its type and default. Variables that are required there are
// optional here, since other variables can replace them.
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
		t.Errorf("the example's call is\n%s\nwant\n%s", got, want)
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

// TestMigration changes only the source of a call whose state is of a module like
// Hardfin's.
func TestMigration(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	a.SettleRoles()
	a.copy("hardfin", "testdata/hardfin")
	a.callFrom("call", "../hardfin")
	a.apply("call")
	a.storeState("call", "hardfin")
	fileSystem := a.fileSystem()
	a.callFrom("call", "../module")
	a.checkMigration("module.sandbox.module.subnet_router.", fileSystem)
}

// TestSubmoduleMigration does the same with a call of Hardfin's submodule, whose node keeps
// its file system.
func TestSubmoduleMigration(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	a.SettleRoles()
	a.copy("hardfin", "testdata/hardfin")
	a.callSubmodule("call", "../hardfin/modules/subnet_router", "")
	a.apply("call")
	a.storeState("call", "submodule")
	fileSystem := a.fileSystem()
	a.callSubmodule("call", "../module", keepNode(fileSystem))
	a.checkMigration("module.sandbox.", fileSystem)
	if b := a.call("elasticfilesystem", "GET", "/2015-02-01/mount-targets?FileSystemId="+fileSystem, "", nil); strings.Count(string(b), `"MountTargetId"`) != 2 {
		t.Errorf("the mount targets are gone: %s", b)
	}
	volumes := a.taskDefinition("sandbox-tailscale").Volumes
	if len(volumes) != 1 || volumes[0].EFSVolumeConfiguration.FileSystemID != fileSystem {
		t.Errorf("the task has the volumes %+v, want the file system %s", volumes, fileSystem)
	}
}

// keepNode returns the arguments with which the router uses the file system of Hardfin's
// node, as UPGRADING.md explains.
func keepNode(fileSystem string) string {
	return fmt.Sprintf(`
  state              = "existing-efs"
  efs_file_system_id = %q
  efs_root_directory = "/"
  efs_owner_id       = 0
`, fileSystem)
}

// callSubmodule writes a call of Hardfin's submodule, with another source and more
// arguments.
func (a account) callSubmodule(dir, source, more string) {
	a.t.Helper()
	a.write(dir+"/provider.tf", provider)
	a.write(dir+"/main.tf", strings.NewReplacer("SOURCE", source, "GROUP", a.world["security_group_id"], "MORE", more).Replace(`
module "sandbox" {
  source = "SOURCE"

  name                        = null
  vpc                         = "sandbox"
  subnet_group                = "sandbox-igw-zz-minotaur-7"
  assign_public_ip            = false
  security_group_ids          = ["GROUP"]
  target_ecs_cluster          = "sandbox-spot"
  tailscale_auth_key_secret   = "sandbox-tailscale-auth-key"
  tailscale_docker_repository = "tailscale"
  tailscale_docker_tag        = "sha-a0063fef6ccfa4dc689642d60637a124c60b1be3"
  enable_execute_command      = false
  additional_routes           = []
  cpu_architecture            = "X86_64"
  additional_flags            = ""
  cpu                         = 256
  memory                      = 512
  MORE
}

output "tailscale_ecs_task_role_name" {
  value = module.sandbox.tailscale_ecs_task_role_name
}
`))
	a.init(dir)
}

// fileSystem returns the ID of the account's only file system.
func (a account) fileSystem() string {
	a.t.Helper()
	var out struct {
		FileSystems []struct{ FileSystemID string }
	}
	b := a.call("elasticfilesystem", "GET", "/2015-02-01/file-systems", "", nil)
	if err := json.Unmarshal(b, &out); err != nil || len(out.FileSystems) != 1 {
		a.t.Fatalf("the account does not have exactly one file system (%v): %s", err, b)
	}
	return out.FileSystems[0].FileSystemID
}

// checkMigrationPlan checks a plan after a change of the source of a call whose resources
// were at the address old.
func (a account) checkMigrationPlan(p plan, old string) {
	a.t.Helper()
	kept := map[string]bool{
		"aws_ecs_service.tailscale": false, "aws_cloudwatch_log_group.tailscale": false,
		"aws_iam_role.ecs_task_tailscale": false, "aws_iam_role.ecs_task_execution_tailscale": false,
	}
	var forgotten []string
	for _, c := range p.ResourceChanges {
		name := strings.TrimSuffix(strings.TrimPrefix(c.Address, "module.sandbox."), "[0]")
		switch _, keep := kept[name]; {
		case keep && c.PreviousAddress == old+name && !c.has("create") && !c.has("delete"):
			kept[name] = true
		case keep:
			a.t.Errorf("%s, before at %q: %v", c.Address, c.PreviousAddress, c.Change.Actions)
		case strings.HasPrefix(c.Type, "aws_efs_") && !c.has("create"):
			if c.has("delete") || !c.has("forget") {
				a.t.Errorf("%s: %v", c.Address, c.Change.Actions)
			}
			forgotten = append(forgotten, c.Type)
		}
	}
	for name, ok := range kept {
		if !ok {
			a.t.Errorf("the plan does not keep %s", name)
		}
	}
	slices.Sort(forgotten)
	if got := slices.Compact(slices.Clone(forgotten)); len(got) != 3 {
		a.t.Errorf("the plan forgets %v, want file system, access point and mount targets", forgotten)
	}
}

// checkMigration plans and applies such a change.
func (a account) checkMigration(old, fileSystem string) {
	a.t.Helper()
	a.checkMigrationPlan(a.plan("call"), old)
	a.apply("call")
	a.noChange("call")
	if got := a.services("sandbox-spot"); !slices.Equal(got, []string{"tailscale"}) {
		a.t.Errorf("the services are %q", got)
	}
	if after := a.fileSystem(); after != fileSystem {
		a.t.Errorf("the file system is %s, want %s as before", after, fileSystem)
	}
	if name := a.outputs("call")["tailscale_ecs_task_role_name"]; name != "ecs-task-sandbox-tailscale" {
		a.t.Errorf("tailscale_ecs_task_role_name = %q", name)
	}
}
