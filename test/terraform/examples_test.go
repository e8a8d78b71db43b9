package terraform

import (
	"maps"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestExamples applies every example in an account with the resources that it expects. The
// next plan is empty. Its plans also show what hashicorp/aws 6.x would do differently.
func TestExamples(t *testing.T) {
	t.Parallel()
	examples, err := filepath.Glob("../../deploy/terraform/examples/*")
	if err != nil || len(examples) < 10 {
		t.Fatalf("there are %d examples (%v)", len(examples), err)
	}
	// In one account the examples follow each other, as their names are the same.
	const accounts = 2
	types, ran := [accounts]map[string]bool{}, [accounts]int{}
	t.Run("in", func(t *testing.T) {
		for i := range accounts {
			types[i] = map[string]bool{}
			t.Run(strconv.Itoa(i), func(t *testing.T) {
				t.Parallel()
				a := newAccount(t)
				for k := i; k < len(examples); k += accounts {
					t.Run(filepath.Base(examples[k]), func(t *testing.T) {
						a := a
						a.t = t
						a.example(examples[k], types[i])
						ran[i]++
					})
				}
			})
		}
	})
	all, n := map[string]bool{}, 0
	for i := range accounts {
		maps.Copy(all, types[i])
		n += ran[i]
	}
	if n == len(examples) { // not with -run
		checkProvider6Types(t, all)
	}
}

// example applies and destroys an example, and records the types of its resources.
func (a account) example(example string, types map[string]bool) {
	t, dir := a.t, "module/examples/"+filepath.Base(example)
	t.Helper()
	ids := strings.NewReplacer(
		"vpc-0123456789abcdef0", a.world["vpc_id"], "vpc-0123456789abcdef1", a.world["vpc_id"],
		"subnet-0123456789abcdef0", a.world["subnet_a"], "subnet-0123456789abcdef1", a.world["subnet_b"],
		"rtb-0123456789abcdef0", a.world["route_table_id"],
		"arn:aws:ecs:eu-west-1:123456789012:cluster/network", a.world["cluster_arn"],
		"arn:aws:secretsmanager:eu-west-1:123456789012:secret:tailscale-AbCdEf", a.world["secret_arn"],
	)
	text := readExample(t, example)
	if filepath.Base(example) == "complete" { // it creates a private DNS namespace
		text = strings.NewReplacer(
			"vpc-0123456789abcdef0", a.world["other_vpc_id"],
			"subnet-0123456789abcdef0", a.world["other_subnet_a"], "subnet-0123456789abcdef1", a.world["other_subnet_b"],
		).Replace(text)
	}
	a.write(dir+"/main.tf", ids.Replace(text))
	a.write(dir+"/provider.tf", provider)
	a.init(dir)
	checkProvider6(t, a.plan(dir), types)
	a.run(dir, "apply", "plan")
	a.noChange(dir)
	switch filepath.Base(example) {
	case "complete":
		a.addProvider(dir)
	case "ec2":
		checkImageTest(t, a.taskDefinition("kernel"), "taskdefinition-ec2.json")
	case "identities":
		a.run(dir, "apply", "-auto-approve", "-var=deletion_protection=false")
	}
	a.run(dir, "destroy", "-auto-approve")
}

// addProvider adds a capacity provider to the cluster, which is not a resource of the
// module: a plan must not change it.
func (a account) addProvider(dir string) {
	a.t.Helper()
	a.edit(dir+"/main.tf", `capacity_providers = ["FARGATE", "FARGATE_SPOT"]`, `capacity_providers = ["FARGATE", "FARGATE_SPOT"]
  default_capacity_provider_strategy {
    capacity_provider = "FARGATE"
  }`)
	for _, c := range a.plan(dir).ResourceChanges {
		if c.Mode == "managed" && strings.HasPrefix(c.Address, "module.") && !c.has("no-op") || c.Mode == "data" && strings.HasPrefix(c.Address, "module.") {
			a.t.Errorf("after a change of the cluster, the plan changes %s: %v", c.Address, c.Change.Actions)
		}
	}
}

// TestCreatedTogether: one apply may create both the module's inputs and the module, with
// endpoints and a file system.
func TestCreatedTogether(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	a.write("call/provider.tf", provider)
	a.write("call/main.tf", `
resource "aws_vpc" "this" {
  cidr_block           = "10.7.0.0/16"
  enable_dns_hostnames = true
}

resource "aws_subnet" "this" {
  for_each = { a = "10.7.1.0/24", b = "10.7.2.0/24" }

  vpc_id            = aws_vpc.this.id
  availability_zone = "eu-west-1${each.key}"
  cidr_block        = each.value
}

resource "aws_route_table" "this" {
  vpc_id = aws_vpc.this.id
}

resource "aws_ec2_managed_prefix_list" "this" {
  name           = "together"
  address_family = "IPv4"
  max_entries    = 1
}

resource "aws_ecs_cluster" "this" {
  name = "together"
}

resource "aws_secretsmanager_secret" "this" {
  name = "together"
}

resource "aws_security_group" "prometheus" {
  vpc_id = aws_vpc.this.id
}

module "router" {
  source = "../module"

  vpc_id                             = aws_vpc.this.id
  subnet_ids                         = [for s in aws_subnet.this : s.id]
  create_security_group              = true
  metrics_ingress_security_group_ids = [aws_security_group.prometheus.id]
  cluster_arn                        = aws_ecs_cluster.this.arn
  auth_secret_arn                    = aws_secretsmanager_secret.this.arn
  image                              = "registry.example.com/subnetrouter:1"
  routes                             = [aws_ec2_managed_prefix_list.this.id]
  state                              = "efs"
  efs_mount_target_subnet_ids        = { for zone, s in aws_subnet.this : zone => s.id }
  create_vpc_endpoints               = true
  vpc_endpoint_route_table_ids       = [aws_route_table.this.id]
}
`)
	a.init("call")
	a.apply("call")
	a.noChange("call")
}
