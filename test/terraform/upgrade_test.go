package terraform

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestUpgrade changes only the source of calls whose state is of testdata/before, the module
// at commit 21d0de2. The plan replaces only the task definition: names, groups and the
// service stay. The subnets of one call are not in the order of their zones; it names the
// mount targets as UPGRADING.md explains.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	a.SettleRoles()
	a.copy("before", "testdata/before")
	a.callUpgraded("call", "../before")
	a.apply("call")
	a.storeState("call", "before")

	a.callUpgraded("call", "../module")
	if got, want := a.replacedMountTargets("call"), []string{`module.unordered.aws_efs_mount_target.state["a"]`, `module.unordered.aws_efs_mount_target.state["b"]`}; !slices.Equal(got, want) {
		t.Errorf("without efs_mount_target_subnet_ids the plan replaces the mount targets %q, want %q", got, want)
	}
	a.keepMountTargets("call")
	a.checkUpgradePlan(a.plan("call"))
	a.apply("call")
	a.noChange("call")
	if got := a.services("sandbox-spot"); !slices.Equal(got, []string{"everything", "tailscale", "unordered"}) {
		t.Errorf("the services are %q", got)
	}
}

// callUpgraded writes calls of the module at commit 21d0de2 with the given source.
func (a account) callUpgraded(dir, source string) {
	a.t.Helper()
	a.callFrom(dir, source)
	a.writeFullCall(dir, source)
	a.writeUnordered(dir, source, "")
	a.init(dir)
}

// keepMountTargets adds the argument that keeps the mount targets of subnets that are not
// in the order of their zones.
func (a account) keepMountTargets(dir string) {
	a.t.Helper()
	a.writeUnordered(dir, "../module", fmt.Sprintf("efs_mount_target_subnet_ids = { a = %q, b = %q }", a.world["subnet_b"], a.world["subnet_a"]))
}

// checkUpgradePlan checks that only task definitions are replaced.
func (a account) checkUpgradePlan(p plan) {
	a.t.Helper()
	kept := 0
	for _, c := range p.ResourceChanges {
		added := slices.Contains([]string{"terraform_data", "aws_efs_file_system_policy"}, c.Type) && slices.Equal(c.Change.Actions, []string{"create"})
		replaced := c.Type == "aws_ecs_task_definition" && c.has("create") && c.has("delete")
		if c.Mode == "managed" && !added && !replaced && (c.has("create") || c.has("delete") || c.has("forget")) {
			a.t.Errorf("%s: %v", c.Address, c.Change.Actions)
		}
		if slices.Contains([]string{"aws_efs_file_system", "aws_efs_access_point"}, c.Type) && c.has("no-op") {
			kept++
		}
	}
	if kept != 4 {
		a.t.Errorf("the plan keeps %d file systems and access points, want 2 of each", kept)
	}
}

// writeUnordered writes a call with state on EFS whose subnets are in zones b and a.
func (a account) writeUnordered(dir, source, arguments string) {
	a.t.Helper()
	a.write(dir+"/unordered.tf", fmt.Sprintf(`
module "unordered" {
  source = %q

  name                  = "unordered"
  vpc_id                = %q
  subnet_ids            = [%q, %q]
  create_security_group = true
  cluster_arn           = %q
  auth_secret_arn       = %q
  image                 = "registry.example.com/subnetrouter:1"
  state                 = "efs"
  %s
}
`, source, a.world["vpc_id"], a.world["subnet_b"], a.world["subnet_a"], a.world["cluster_arn"], a.world["secret_arn"], arguments))
}

// replacedMountTargets returns the addresses of mount targets that a plan replaces, sorted.
func (a account) replacedMountTargets(dir string) (addresses []string) {
	a.t.Helper()
	for _, c := range a.plan(dir).ResourceChanges {
		if c.Type == "aws_efs_mount_target" && c.has("delete") {
			addresses = append(addresses, c.Address)
		}
	}
	slices.Sort(addresses)
	return addresses
}

// services returns the names of a cluster's services.
func (a account) services(cluster string) (names []string) {
	a.t.Helper()
	var out struct{ ServiceArns []string }
	a.json("ecs", ecsTarget+"ListServices", map[string]any{"cluster": cluster}, &out)
	for _, arn := range out.ServiceArns {
		names = append(names, arn[strings.LastIndex(arn, "/")+1:])
	}
	slices.Sort(names)
	return names
}

// TestTwoVPCsInACluster has two calls without a name, in VPCs whose Name tags are not valid
// names.
func TestTwoVPCsInACluster(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	a.write("call/provider.tf", provider)
	a.write("call/main.tf", strings.NewReplacer("CLUSTER", a.world["cluster_arn"], "SECRET", a.world["secret_arn"]).Replace(twoVPCs))
	a.init("call")
	a.apply("call")
	a.noChange("call")
	if got, want := a.services("sandbox-spot"), []string{"Main-VPC-tailscale", "NetworkStack-Vpc-tailscale"}; !slices.Equal(got, want) {
		t.Errorf("the services are %q, want %q", got, want)
	}

	// The VPC gets another Name tag.
	a.run("call", "apply", "-auto-approve", "-var=first_name=Network", "-target=aws_vpc.this")
	for _, c := range a.plan("call", "-var=first_name=Network").ResourceChanges {
		if c.Mode == "managed" && !c.has("no-op") {
			t.Errorf("after a new Name tag, %s: %v", c.Address, c.Change.Actions)
		}
	}

	// A service moves to another VPC: its security group is replaced while its tasks use the
	// old one.
	move := []string{"-var=first_name=Network", "-var=first_vpc=second"}
	if out, err := a.try("call", append([]string{"apply", "-auto-approve"}, move...)...); err != nil {
		t.Errorf("moving to another VPC: %v\n%s", err, out)
	}
	for _, c := range a.plan("call", move...).ResourceChanges {
		if c.Mode == "managed" && !c.has("no-op") {
			t.Errorf("after the move, %s: %v", c.Address, c.Change.Actions)
		}
	}
}

const twoVPCs = `
variable "first_name" {
  default = "NetworkStack/Vpc"
}

variable "first_vpc" {
  default = "first"
}

resource "aws_vpc" "this" {
  for_each = { first = var.first_name, second = "Main VPC" }

  cidr_block = "10.7.0.0/16"
  tags       = { Name = each.value }
}

resource "aws_subnet" "this" {
  for_each = aws_vpc.this

  vpc_id     = each.value.id
  cidr_block = "10.7.1.0/24"
}

module "first" {
  source = "../module"

  vpc_id                = aws_vpc.this[var.first_vpc].id
  subnet_ids            = [aws_subnet.this[var.first_vpc].id]
  create_security_group = true
  cluster_arn           = "CLUSTER"
  auth_secret_arn       = "SECRET"
  image                 = "registry.example.com/subnetrouter:1"
}

module "second" {
  source = "../module"

  vpc_id                = aws_vpc.this["second"].id
  subnet_ids            = [aws_subnet.this["second"].id]
  create_security_group = true
  cluster_arn           = "CLUSTER"
  auth_secret_arn       = "SECRET"
  image                 = "registry.example.com/subnetrouter:1"
}
`
