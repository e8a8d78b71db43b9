package terraform

import (
	"fmt"
	"html"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"subnetrouter/internal/awstest"
)

// variant is the module with a fault, and the expected answer of the AWS double.
type variant struct {
	rule      string // of awstest.StrictRules
	file      string // of the module
	old, new  string // edit of that file
	arguments string // of the call, besides the common ones
	error     string // of an apply; "": it succeeds, but the next plan is not empty
	plan      string // contained in that plan
	policy    string // not contained in the task role's policy
}

// variants has a variant of the module for every rule of the double, which fails because of
// it.
var variants = map[string]variant{
	"capabilities": {
		rule: "task definition: omitted lists are stored as empty lists",
		file: "main.tf", old: `add = var.kernel_mode ? ["NET_ADMIN", "NET_RAW"] : [], drop`, new: `drop`,
		plan: `aws_ecs_task_definition.tailscale\[0\] must be replaced`,
	},
	"sizes": {
		rule: "task definition: Fargate's sizes",
		file: "main.tf", old: `256   = [512, 1024, 2048]`, new: `256   = [512, 1024, 2048, 4096]`,
		arguments: `memory = 4096`,
		error:     `ClientException: No Fargate configuration exists`,
	},
	"capability": {
		rule: "task definition: Fargate's capabilities and devices",
		file: "main.tf", old: `add = var.kernel_mode ? ["NET_ADMIN", "NET_RAW"] : [], drop`, new: `add = ["NET_ADMIN"], drop`,
		error: `ClientException: Fargate compatible task definitions support only SYS_PTRACE`,
	},
	"one_name_a": {
		rule: "service: names are unique in a cluster",
		file: "main.tf", old: `name                   = local.service_name`, new: `name = "tailscale"`,
		error: `InvalidParameterException: Creation of service was not idempotent`,
	},
	"one_name_b": {
		rule: "service: names are unique in a cluster",
		file: "main.tf", old: `name                   = local.service_name`, new: `name = "tailscale"`,
		error: `InvalidParameterException: Creation of service was not idempotent`,
	},
	"new_roles": {
		rule:      "role: not known to ECS at once",
		arguments: `iam_wait = 0`,
		error:     `is not authorized to perform: iam:PassRole`,
	},
	"trust": {
		rule: "role: trusts ECS for tasks of the account and region",
		file: "iam.tf", old: `ArnLike      = { "aws:SourceArn" = "arn:${local.partition}:ecs:${local.region}:`, new: `ArnLike      = { "aws:SourceArn" = "arn:${local.partition}:ecs:us-east-1:`,
		arguments: `timeouts = { create = "10s" }`,
		error:     `timeout while waiting for state`,
	},
	"providers": {
		rule:      "service: only capacity providers of its cluster",
		arguments: `capacity_provider_strategy = [{ capacity_provider = "FARGATE_SPOT" }]`,
		error:     `InvalidParameterException: The specified capacity provider 'FARGATE_SPOT' was not found`,
	},
	"zones": {
		rule: "interface endpoint: one subnet per zone",
		file: "network.tf", old: `subnet_ids          = values(local.subnets_by_zone)`, new: `subnet_ids = local.subnet_ids`,
		arguments: "create_vpc_endpoints = true\n  vpc_endpoint_services = [\"logs\"]\n  subnet_ids = [local.subnet_a, local.subnet_a2]",
		error:     `DuplicateSubnetsInSameZone: Found another VPC endpoint subnet`,
	},
	"mount_targets": {
		rule: "file system: one mount target per zone",
		file: "state.tf", old: `var.efs_mount_target_subnet_ids : local.subnets_by_zone`, new: `var.efs_mount_target_subnet_ids : { for id in local.subnet_ids : id => id }`,
		arguments: "state = \"efs\"\n  subnet_ids = [local.subnet_a, local.subnet_a2]",
		error:     `MountTargetConflict`,
	},
	"private_dns": {
		rule: "interface endpoint: private DNS needs the VPC's",
		file: "network.tf", old: `condition     = local.vpc.enable_dns_support && local.vpc.enable_dns_hostnames`, new: `condition     = local.vpc.enable_dns_support`,
		arguments: "create_vpc_endpoints = true\n  vpc_endpoint_services = [\"logs\"]\n  vpc_id = aws_vpc.plain.id\n  subnet_ids = [aws_subnet.plain.id]",
		error:     `InvalidParameter: Enabling private DNS requires both enableDnsSupport and enableDnsHostnames`,
	},
	"threshold": {
		rule: "Cloud Map: the failure threshold is 1",
		file: "discovery.tf", old: "    failure_threshold = 1\n", new: "",
		arguments: `service_discovery = { namespace_id = local.namespace_id }`,
		plan:      `aws_service_discovery_service.router\[0\] must be replaced`,
	},
	"secret_key": {
		rule: "secret: its key is an ID or an alias",
		file: "iam.tf", old: `[for key in data.aws_kms_key.auth : key.arn if key.key_manager != "AWS" && !endswith(local.secret_key_id, local.aws_secret_key)]`, new: `[for s in data.aws_secretsmanager_secret.auth : s.kms_key_id if startswith(s.kms_key_id, "arn:") && strcontains(s.kms_key_id, ":key/")]`,
		arguments: "auth_secret_arn = null\n  tailscale_auth_key_secret = \"sandbox-tailscale-auth-key/by-alias\"",
		policy:    `kms:Decrypt`,
	},
}

// TestStrictRules: the AWS double rejects each variant, or the next plan is not empty. Rules
// that need more than an apply have their own tests.
func TestStrictRules(t *testing.T) {
	t.Parallel()
	otherTests := map[string]string{
		"task definition: defaults of a port":                  "hashicorp/aws 5.100 fills them in too",
		"task definition: defaults of a health check":          "hashicorp/aws 5.100 fills them in too",
		"service: not with an inactive task definition":        "TestRollback",
		"service: a failed deployment is rolled back":          "TestRollback",
		"security group: not deleted while in use":             "TestReplacedGroup",
		"shared VPC: participants do not see the owner's tags": "TestSharedVPC",
		"shared VPC: only the owner creates endpoints":         "TestSharedVPC",
		"Cloud Map: a service with instances is not deleted":   "TestReplacedGroup",
	}
	for _, rule := range awstest.StrictRules() {
		covered := otherTests[rule.Name] != ""
		for _, v := range variants {
			covered = covered || v.rule == rule.Name
		}
		if !covered || rule.Sentence == "" || !strings.HasPrefix(rule.Source, "https://") {
			t.Errorf("rule %q has no variant, sentence or source", rule.Name)
		}
	}

	a := newAccount(t)
	a.writeVariants("call", variants)
	a.init("call")
	// Alone: the waits of the other variants would advance the clock for its roles too.
	fresh, err := a.try("call", "apply", "-auto-approve", "-target=module.new_roles")
	if v := variants["new_roles"]; err == nil || !strings.Contains(fresh, v.error) {
		t.Errorf("new_roles: the apply did not fail with %q: %v\n%s", v.error, err, fresh)
	}
	applied, err := a.try("call", "apply", "-auto-approve")
	if err == nil {
		t.Fatal("the apply of the variants succeeded")
	}
	planned, _ := a.try("call", "plan")
	for name, v := range variants {
		switch {
		case v.plan != "":
			if !regexp.MustCompile(`module\.` + name + `\.` + v.plan).MatchString(planned) {
				t.Errorf("%s: after an apply, the plan does not contain %q", name, v.plan)
			}
		case v.policy != "":
			if text := a.rolePolicy("ecs-task-"+name, "router"); strings.Contains(text, v.policy) {
				t.Errorf("%s: the policy contains %s: %s", name, v.policy, text)
			}
		case strings.HasPrefix(name, "one_name_"), name == "new_roles":
		case !strings.Contains(applied, v.error) || !strings.Contains(applied, "with module."+name+"."):
			t.Errorf("%s: the apply did not fail with %q", name, v.error)
		}
	}
	if got := strings.Count(applied, variants["one_name_a"].error); got != 1 {
		t.Errorf("two services with one name: %d were rejected", got)
	}
	if t.Failed() {
		t.Logf("apply:\n%s\nplan:\n%s", applied, planned)
	}
}

// rolePolicy returns an inline policy of a role.
func (a account) rolePolicy(role, name string) string {
	a.t.Helper()
	answer := a.query("iam", "2010-05-08", "GetRolePolicy", "RoleName", role, "PolicyName", name)
	_, rest, _ := strings.Cut(answer, "<PolicyDocument>")
	text, _, _ := strings.Cut(rest, "</PolicyDocument>")
	return html.UnescapeString(text)
}

// writeVariants writes a root module that calls a copy of the module for each variant.
func (a account) writeVariants(dir string, variants map[string]variant) {
	a.t.Helper()
	main := "locals {\n"
	for k, v := range a.world {
		main += fmt.Sprintf("  %s = %q\n", k, v)
	}
	main += `}

resource "aws_vpc" "plain" {
  cidr_block = "10.9.0.0/16"
}

resource "aws_subnet" "plain" {
  vpc_id     = aws_vpc.plain.id
  cidr_block = "10.9.1.0/24"
}
`
	for name, v := range variants {
		a.copy(name, "../../deploy/terraform")
		if v.file != "" {
			path := filepath.Join(a.dir, name, v.file)
			b, err := os.ReadFile(path)
			if err != nil {
				a.t.Fatal(err)
			}
			if strings.Count(string(b), v.old) != 1 {
				a.t.Fatalf("%s: %s does not contain %q exactly once", name, v.file, v.old)
			}
			a.write(filepath.Join(name, v.file), strings.Replace(string(b), v.old, v.new, 1))
		}
		main += fmt.Sprintf("\nmodule %q {\n  source = \"../%s\"\n  name = %q\n", name, name, name)
		for argument, value := range map[string]string{
			"vpc_id": "local.vpc_id", "subnet_ids": "[local.subnet_a]", "create_security_group": "true", "cluster_arn": "local.cluster_arn",
			"auth_secret_arn": "local.secret_arn", "image": `"registry.example.com/subnetrouter:1"`,
		} {
			if !strings.Contains("\n  "+v.arguments, "\n  "+argument+" ") {
				main += "  " + argument + " = " + value + "\n"
			}
		}
		main += "  " + v.arguments + "\n}\n"
	}
	a.write(dir+"/provider.tf", provider)
	a.write(dir+"/main.tf", main)
}

// edit replaces the only occurrence of old in a file of the workspace.
func (w workspace) edit(name, old, replacement string) {
	w.t.Helper()
	b, err := os.ReadFile(filepath.Join(w.dir, name))
	if err != nil {
		w.t.Fatal(err)
	}
	if n := strings.Count(string(b), old); n != 1 {
		w.t.Fatalf("%s contains %q %d times, want once", name, old, n)
	}
	w.write(name, strings.Replace(string(b), old, replacement, 1))
}

// TestRollback: an apply fails if ECS rolls the deployment back, and keeps the previous
// revision, to which ECS rolls back.
func TestRollback(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	a.callFrom("call", "../module")
	// One copy lacks the condition that detects a rollback, another deregisters revisions.
	a.copy("blind", "../../deploy/terraform")
	a.edit("blind/main.tf", `condition     = !var.wait_for_steady_state || self.task_definition == aws_ecs_task_definition.tailscale[0].arn`, `condition     = self.name != ""`)
	a.copy("forgetful", "../../deploy/terraform")
	extra := `
variable "image" {
  default = "registry.example.com/subnetrouter:1"
}
`
	for source, keep := range map[string]string{"blind": "true", "forgetful": "false"} {
		extra += strings.NewReplacer("SOURCE", source, "KEEP", keep, "VPC", a.world["vpc_id"], "SUBNET", a.world["subnet_a"], "CLUSTER", a.world["cluster_arn"], "SECRET", a.world["secret_arn"]).Replace(`
module "SOURCE" {
  source = "../SOURCE"

  name                  = "SOURCE"
  vpc_id                = "VPC"
  subnet_ids            = ["SUBNET"]
  create_security_group = true
  cluster_arn           = "CLUSTER"
  auth_secret_arn       = "SECRET"
  image                 = var.image
  keep_task_definitions = KEEP
  timeouts              = { update = "10s" }
}
`)
	}
	a.write("call/extra.tf", extra)
	a.init("call")
	a.apply("call")

	a.pushImage(nextTag, 2)
	a.edit("call/main.tf", publishedTag, nextTag)
	for _, name := range []string{"sandbox-tailscale", "blind", "forgetful"} {
		a.FailDeployments(a.world["cluster_arn"], name)
	}
	const image = "-var=image=registry.example.com/subnetrouter:2"
	out, err := a.try("call", "apply", "-auto-approve", image)
	if err == nil || strings.Count(out, "ECS rolled it back") != 1 || !strings.Contains(out, "task-definition/sandbox-tailscale:1") {
		t.Errorf("the apply of a deployment that was rolled back: %v\n%s", err, out)
	}
	if !strings.Contains(out, "module.blind.aws_ecs_service.tailscale[0]: Modifications complete") {
		t.Error("without the condition, the provider no longer reports the deployment as successful")
	}
	if !strings.Contains(out, "with module.forgetful.aws_ecs_service.tailscale[0]") {
		t.Error("a service with an inactive previous revision was rolled back")
	}
	for family, want := range map[string]string{"sandbox-tailscale:1": "ACTIVE", "forgetful:1": "INACTIVE"} {
		if got := a.taskDefinition(family).Status; got != want {
			t.Errorf("the task definition %s is %s, want %s", family, got, want)
		}
	}
}

// TestReplacedGroup shows the errors of a replacement of the groups, and of a destroy, in
// copies without the module's precautions. TestTwoVPCsInACluster does the same with the
// module itself.
func TestReplacedGroup(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	a.edit("module/network.tf", `  name_prefix = "${local.group_name}-"
  description = "Tailscale subnet router"
  vpc_id      = local.vpc_id
  tags        = merge({ Name = local.name }, var.tags)

  lifecycle {
    create_before_destroy = true
    ignore_changes        = [name, name_prefix]
  }
`, `  name_prefix = "${local.group_name}-"
  description = "Tailscale subnet router"
  vpc_id      = local.vpc_id

  timeouts {
    delete = "5s"
  }
`)
	for _, file := range []string{"module/network.tf", "module/state.tf"} {
		b, err := os.ReadFile(filepath.Join(a.dir, file))
		if err != nil {
			t.Fatal(err)
		}
		a.write(file, strings.ReplaceAll(string(b), "create_before_destroy = true", "create_before_destroy = false"))
	}
	a.edit("module/discovery.tf", "force_destroy = true", "force_destroy = false")
	a.write("call/provider.tf", provider)
	a.write("call/main.tf", strings.NewReplacer("VPC", a.world["vpc_id"], "SUBNET", a.world["subnet_a"], "CLUSTER", a.world["cluster_arn"], "SECRET", a.world["secret_arn"], "NAMESPACE", a.world["namespace_id"]).Replace(`
variable "name" {
  default = "first"
}

module "router" {
  source = "../module"

  name                  = var.name
  vpc_id                = "VPC"
  subnet_ids            = ["SUBNET"]
  create_security_group = true
  cluster_arn           = "CLUSTER"
  auth_secret_arn       = "SECRET"
  image                 = "registry.example.com/subnetrouter:1"
  service_discovery     = { namespace_id = "NAMESPACE" }
}
`))
	a.init("call")
	a.apply("call")
	if out, err := a.try("call", "apply", "-auto-approve", "-var=name=second"); err == nil || !strings.Contains(out, "DependencyViolation") {
		t.Errorf("replacing a security group that tasks use: %v\n%s", err, out)
	}
	if out, err := a.try("call", "destroy", "-auto-approve", "-var=name=second"); err == nil || !strings.Contains(out, "contains registered instances") {
		t.Errorf("destroying while Cloud Map has instances: %v\n%s", err, out)
	}
}

// TestSharedVPC: in a VPC of another account, look-ups by name or tag find nothing, and the
// errors explain why; IDs work.
func TestSharedVPC(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	a.ShareVPCs()
	a.write("call/provider.tf", provider)
	call := func(name, arguments string) {
		a.write("call/main.tf", strings.NewReplacer("SUBNET", a.world["subnet_a"], "VPC", a.world["vpc_id"], "CLUSTER", a.world["cluster_arn"], "SECRET", a.world["secret_arn"]).Replace(strings.Replace(`
module "router" {
  source = "../module"

  ARGUMENTS
  create_security_group = true
  cluster_arn           = "CLUSTER"
  auth_secret_arn       = "SECRET"
  image                 = "registry.example.com/subnetrouter:1"
}

output "name" {
  value = module.router.name
}
`, "ARGUMENTS", arguments, 1)))
		a.init("call")
	}
	for _, refused := range []struct{ name, arguments, error string }{
		{"by name", "vpc = \"sandbox\"\n  subnet_ids = [\"SUBNET\"]", "no matching EC2 VPC found"},
		{"by group", "vpc_id = \"VPC\"\n  subnet_group = \"sandbox-igw-zz-minotaur-7\"", "In a VPC that another account"},
		{"endpoints", "vpc_id = \"VPC\"\n  subnet_ids = [\"SUBNET\"]\n  create_vpc_endpoints = true\n  vpc_endpoint_services = [\"logs\"]", "OperationNotPermitted"},
	} {
		call(refused.name, refused.arguments)
		if out, err := a.try("call", "apply", "-auto-approve"); err == nil || !strings.Contains(strings.Join(strings.Fields(out), " "), refused.error) {
			t.Errorf("%s: %v\n%s", refused.name, err, out)
		}
	}
	call("by ID", "vpc_id = \"VPC\"\n  subnet_ids = [\"SUBNET\"]")
	a.apply("call")
	a.noChange("call")
	if got, want := a.output("call", "name"), a.world["vpc_id"]+"-tailscale"; got != want {
		t.Errorf("the name is %q, want %q", got, want)
	}
}
