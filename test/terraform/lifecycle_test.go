package terraform

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// taskDefinition holds the stored fields of a task definition that the tests check.
type taskDefinition struct {
	CPU, Memory, Status  string
	NetworkMode          string
	RequiresAttributes   []any
	ContainerDefinitions []map[string]any
	TaskRoleArn          string
	RuntimePlatform      struct{ CPUArchitecture string }
	Volumes              []struct {
		EFSVolumeConfiguration struct{ FileSystemID string }
	}
}

// container returns the only container.
func (d taskDefinition) container(t *testing.T) map[string]any {
	t.Helper()
	if len(d.ContainerDefinitions) != 1 {
		t.Fatalf("the task has %d containers", len(d.ContainerDefinitions))
	}
	return d.ContainerDefinitions[0]
}

func (d taskDefinition) environment(t *testing.T) map[string]string {
	t.Helper()
	env := map[string]string{}
	for _, e := range d.container(t)["environment"].([]any) {
		e := e.(map[string]any)
		env[e["name"].(string)] = e["value"].(string)
	}
	return env
}

func (a account) taskDefinition(family string) taskDefinition {
	a.t.Helper()
	var out struct{ TaskDefinition taskDefinition }
	a.json("ecs", ecsTarget+"DescribeTaskDefinition", map[string]any{"taskDefinition": family}, &out)
	return out.TaskDefinition
}

// TestLifecycle creates, plans again, changes and destroys the published call and one with
// everything that the module can create.
func TestLifecycle(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	a.callFrom("call", "../module")
	a.writeFullCall("call", "../module")
	a.init("call")
	before := a.countResources()
	a.apply("call")
	a.noChange("call")
	// The order of subnets must not matter, as look-ups return them in any order.
	inA := a.world["subnet_a2"] // as writeFullCall has it
	a.edit("call/everything.tf", `"`+inA+`", "`+a.world["subnet_b"]+`"`, `"`+a.world["subnet_b"]+`", "`+inA+`"`)
	a.noChange("call")
	if now := a.countResources(); now["services"] != 2 || now["DescribeVpcEndpoints"] < 6 || now["file-systems"] != 1 || now["DescribeAlarms"] != 2 {
		t.Errorf("after apply the account has %v", now)
	}

	d := a.taskDefinition("sandbox-tailscale")
	a.checkPlan(t, called{Environment: d.environment(t), AutoApprover: a.output("call", "autoapprovers_json"), Nameservers: nil}, a.metadata())
	checkImageTest(t, d, "taskdefinition.json")
	first, _ := d.container(t)["image"].(string)
	if !strings.HasSuffix(first, "/tailscale@sha256:"+strings.Repeat("0", 63)+"1") {
		t.Errorf("the image is %s, want the digest of the tag", first)
	}

	a.pushImage(nextTag, 2)
	main := filepath.Join(a.dir, "call/main.tf")
	text, err := os.ReadFile(main)
	if err != nil {
		t.Fatal(err)
	}
	a.write("call/main.tf", strings.Replace(string(text), publishedTag, nextTag, 1))
	for _, c := range a.plan("call").ResourceChanges {
		named := strings.HasPrefix(c.Address, "module.sandbox.aws_ecs_")
		if c.Mode == "managed" && named == c.has("no-op") {
			t.Errorf("a new image tag: %s: %v", c.Address, c.Change.Actions)
		}
	}
	a.apply("call")
	if second, _ := a.taskDefinition("sandbox-tailscale").container(t)["image"].(string); !strings.HasSuffix(second, "2") || second == first {
		t.Errorf("with the new tag the image is %s", second)
	}

	a.run("call", "destroy", "-auto-approve")
	before[taskDefinitions] += 2 // revisions of the published call, which remain
	if left := a.countResources(); !reflect.DeepEqual(left, before) {
		t.Errorf("after destroy the account has\n%v\nwant as before\n%v", left, before)
	}
}

// writeFullCall writes a call that creates everything that the module can create.
func (a account) writeFullCall(dir, source string) {
	a.t.Helper()
	// Of the two subnets of zone a, the one that was created later comes first: the order of
	// the list matters, not that of the IDs, which are random. The stored states rely on the
	// same order in every account.
	keep, subnets := "", []string{a.world["subnet_a2"], a.world["subnet_b"]}
	if source == "../module" { // testdata/before has no such variables
		keep = "  keep_task_definitions              = false\n"
		subnets = append(subnets, a.world["subnet_a"])
	}
	a.write(dir+"/everything.tf", strings.NewReplacer(
		"../module", source, "KEEP", keep,
		"VPC", a.world["vpc_id"], "SUBNETS", `"`+strings.Join(subnets, `", "`)+`"`, "CLUSTER", a.world["cluster_arn"],
		"SECRET", a.world["secret_arn"], "NAMESPACE", a.world["namespace_id"], "TABLE", a.world["route_table_id"], "GROUP", a.world["security_group_id"],
	).Replace(everything))
}

const taskDefinitions = ecsTarget + "ListTaskDefinitions"

const everything = `
module "everything" {
  source = "../module"

  name                               = "everything"
  tags                               = { team = "network" }
  vpc_id                             = "VPC"
  subnet_ids                         = [SUBNETS]
  assign_public_ip                   = true
  create_security_group              = true
  metrics_ingress_security_group_ids = ["GROUP"]
  cluster_arn                        = "CLUSTER"
  auth_secret_arn                    = "SECRET"
  image                              = "registry.example.com/subnetrouter:1"
  cpu_architecture                   = "ARM64"
  state                              = "efs"
  enable_execute_command             = true
  create_alarms                      = true
  service_discovery                  = { namespace_id = "NAMESPACE" }
  create_vpc_endpoints               = true
  vpc_endpoint_route_table_ids       = ["TABLE"]
KEEP}

output "autoapprovers_json" {
  value = module.sandbox.autoapprovers_json
}
`

func (a account) output(dir, name string) string { return a.outputs(dir)[name] }

// countResources returns the number of resources in the account, by kind.
func (a account) countResources() map[string]int {
	a.t.Helper()
	count := map[string]int{}
	list := func(service, target, field string, in any) {
		var out map[string]json.RawMessage
		a.json(service, target, in, &out)
		var items []any
		if err := json.Unmarshal(out[field], &items); err != nil {
			a.t.Fatalf("%s: %v", target, err)
		}
		count[target] = len(items)
	}
	list("ecs", taskDefinitions, "taskDefinitionArns", map[string]any{"status": "ACTIVE"})
	list("logs", "Logs_20140328.DescribeLogGroups", "logGroups", map[string]any{})
	list("logs", "Logs_20140328.DescribeMetricFilters", "metricFilters", map[string]any{})
	list("servicediscovery", "Route53AutoNaming_v20170314.ListServices", "Services", map[string]any{})
	for _, q := range []struct{ service, version, action, item string }{
		{"iam", "2010-05-08", "ListRoles", "<RoleName>"},
		{"ec2", "2016-11-15", "DescribeSecurityGroups", "<groupName>"},
		{"ec2", "2016-11-15", "DescribeVpcEndpoints", "<state>available</state>"},
		{"monitoring", "2010-08-01", "DescribeAlarms", "<AlarmName>"},
	} {
		count[q.action] = strings.Count(a.query(q.service, q.version, q.action), q.item)
	}
	// Deleted services and endpoints remain listed for a while, with a state.
	var services struct{ Services []struct{ Status string } }
	a.json("ecs", ecsTarget+"DescribeServices", map[string]any{"cluster": "sandbox-spot", "services": []string{"sandbox-tailscale", "everything"}}, &services)
	for _, s := range services.Services {
		if s.Status == "ACTIVE" {
			count["services"]++
		}
	}
	// Mount targets are listed by file system, which cannot be deleted while it has any.
	for _, kind := range []string{"file-systems", "access-points"} {
		count[kind] = strings.Count(string(a.call("elasticfilesystem", "GET", "/2015-02-01/"+kind, "", nil)), `"OwnerId"`)
	}
	return count
}

// checkImageTest compares a task definition of test/image with the module's, except for
// values that depend on the account.
func checkImageTest(t *testing.T, made taskDefinition, name string) {
	t.Helper()
	b, err := os.ReadFile("../image/testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	var file taskDefinition
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	if made.CPU != file.CPU || made.Memory != file.Memory || made.NetworkMode != file.NetworkMode {
		t.Errorf("cpu %s, memory %s, network %s, in test/image %s, %s, %s", made.CPU, made.Memory, made.NetworkMode, file.CPU, file.Memory, file.NetworkMode)
	}
	got, want := made.environment(t), file.environment(t)
	delete(got, "ROUTER_AUTH_SECRET")
	delete(want, "ROUTER_AUTH_SECRET")
	if !maps.Equal(got, want) {
		t.Errorf("the environment is %v, in test/image %v", got, want)
	}
	for key, want := range file.container(t) {
		if key == "image" || key == "environment" {
			continue
		}
		if got := made.container(t)[key]; !reflect.DeepEqual(got, want) {
			t.Errorf("%s is %v, in test/image %v", key, got, want)
		}
	}
}
