package terraform

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"

	"subnetrouter/internal/awstest"
	"subnetrouter/internal/bootstrap/routesource"
)

// called holds the outputs of one configuration in testdata/calls.
type called struct {
	Environment  map[string]string
	AutoApprover string `json:"autoapprovers_json"`
	Nameservers  []netip.Addr
}

// TestDrift compares the module with the binary for several configurations: the real
// `router plan` has to accept the environment, the policy of the task role has to match the
// policy that it prints, and the hints for the tailnet the routes that it advertises.
func TestDrift(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	a.copy("calls", "testdata/calls")
	a.write("calls/provider.tf", provider)
	locals := "locals {\n  image = \"registry.example.com/subnetrouter:1\"\n"
	for k, v := range a.world {
		locals += fmt.Sprintf("  %s = %q\n", k, v)
	}
	a.write("calls/locals.tf", locals+"}\n")
	a.createNamed()
	a.init("calls")
	p := a.plan("calls")
	var calls map[string]called
	if err := json.Unmarshal(p.PlannedValues.Outputs["calls"].Value, &calls); err != nil {
		t.Fatal(err)
	}
	if len(calls) < 6 {
		t.Fatalf("the plan has %d configurations", len(calls))
	}
	used := map[*routesource.Kind]bool{}
	for name, c := range calls {
		sources, err := routesource.Parse(cmp.Or(c.Environment["ROUTER_ROUTES"], "vpc"))
		if err != nil {
			t.Errorf("%s: ROUTER_ROUTES: %v", name, err)
		}
		for _, s := range sources {
			used[routesource.KindOf(s)] = true
		}
	}
	for _, k := range routesource.Kinds() {
		if !used[k] {
			t.Errorf("no configuration has a source %s: add one to testdata/calls, so that its policy is compared", k.Syntax)
		}
	}
	t.Run("complete example", a.planComplete)
	metadata := a.metadata()
	for _, name := range slices.Sorted(maps.Keys(calls)) {
		c := calls[name]
		t.Run(name, func(t *testing.T) {
			t.Run("plan", func(t *testing.T) { a.checkPlan(t, c, metadata) })
			t.Run("iam", func(t *testing.T) {
				var flags []string
				switch name {
				case "json_key":
					flags = []string{"--kms-key=arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"}
				case "why":
					flags = []string{"--why"}
				case "parameter":
					flags = []string{"--kms-key=arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"}
				case "key_by_id", "key_by_alias", "key_by_arn":
					flags = []string{"--kms-key=" + a.world["kms_key_arn"]}
				}
				ecs := map[string]string{"AWS_REGION": "eu-west-1"}
				if name == "identities" || name == "names" { // their policies name the cluster and the service
					cluster := strings.Replace(a.world["cluster_arn"], ":cluster/", ":task/", 1)
					task, err := awstest.NewMetadata("", awstest.Task{ARN: cluster + "/1", Service: name})
					if err != nil {
						t.Fatal(err)
					}
					defer task.Close()
					maps.Copy(ecs, task.Env())
				}
				want := runRouter(t, c.Environment, ecs, append([]string{"plan", "--iam"}, flags...)...)
				got := p.value(t, "module."+name+".aws_iam_role_policy.router[0]", "policy")
				if got, want := statements(t, []byte(got)), statements(t, want); !reflect.DeepEqual(got, want) {
					t.Errorf("the task role's policy is\n%v\nbut the binary needs\n%v", got, want)
				}
			})
		})
	}
}

// createNamed creates a database and a load balancer with the tag env=production. The provider
// would wait a minute for each.
func (a account) createNamed() {
	a.t.Helper()
	a.query("rds", "2014-10-31", "CreateDBInstance", "DBInstanceIdentifier", "orders", "DBInstanceClass", "db.t3.micro", "Engine", "postgres",
		"AllocatedStorage", "20", "MasterUsername", "postgres", "MasterUserPassword", "password", "Tags.Tag.1.Key", "env", "Tags.Tag.1.Value", "production")
	a.query("elasticloadbalancing", "2015-12-01", "CreateLoadBalancer", "Name", "web", "Type", "network", "Scheme", "internal",
		"Subnets.member.1", a.world["subnet_a"], "Tags.member.1.Key", "env", "Tags.member.1.Value", "production")
}

// planComplete plans an example that creates its surroundings itself. Their attributes are
// unknown during the plan, so the number of resources must not depend on them.
func (a account) planComplete(t *testing.T) {
	const dir = "module/examples/complete"
	a.t = t
	a.write(dir+"/provider.tf", provider)
	a.write(dir+"/terraform.tfvars", fmt.Sprintf("vpc_id = %q\npublic_subnet_ids = [%q, %q]\n", a.world["vpc_id"], a.world["subnet_a"], a.world["subnet_b"]))
	a.init(dir)
	created := map[string]int{}
	for _, c := range a.plan(dir).ResourceChanges {
		if c.has("create") {
			created[c.Type]++
		} else if c.Mode == "managed" {
			t.Errorf("%s: %v", c.Address, c.Change.Actions)
		}
	}
	if created["aws_ecs_service"] != 1 || created["aws_cloudwatch_metric_alarm"] != 2 || created["aws_service_discovery_service"] != 1 || created["aws_vpc_security_group_ingress_rule"] != 4 {
		t.Errorf("the plan creates %v", created)
	}
}

// metadata returns the metadata of a task in the account's VPC.
func (a account) metadata() *awstest.Metadata {
	a.t.Helper()
	m, err := awstest.NewMetadata("", awstest.Task{
		Family: "sandbox-tailscale", Service: "tailscale", CPU: 0.25, MemoryMiB: 512,
		MAC: a.world["task_mac"], IPv4: []netip.Addr{netip.MustParseAddr(a.world["task_address"])}, IPv4Subnet: netip.MustParsePrefix("10.0.1.0/24"),
	})
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { m.Close() })
	return m
}

// checkPlan compares the configuration with the output of `router plan` in its environment.
func (a account) checkPlan(t *testing.T, c called, metadata *awstest.Metadata) {
	t.Helper()
	env := a.Env(awstest.World{})
	maps.Copy(env, metadata.Env())
	out := runRouter(t, c.Environment, env, "plan", "--json")
	var plan struct {
		Credential string
		Advertise  []netip.Prefix
		DNS        *struct{}
	}
	if err := json.Unmarshal(out, &plan); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if id := c.Environment["TS_CLIENT_ID"]; id != "" && !strings.Contains(plan.Credential, id) ||
		id == "" && !strings.Contains(plan.Credential, "sandbox-tailscale-auth-key") {
		t.Errorf("the credential is %q", plan.Credential)
	}
	none := c.Environment["ROUTER_ROUTES"] == "none"
	if (len(plan.Advertise) == 0) != none {
		t.Fatalf("%d routes are advertised: %s", len(plan.Advertise), out)
	}
	var hint struct {
		AutoApprovers struct{ Routes map[netip.Prefix][]string }
		Grants        []struct{ Src, Dst, IP []string }
	}
	if err := json.Unmarshal([]byte(c.AutoApprover), &hint); err != nil {
		t.Fatal(err)
	}
	// The module knows only the ID of a prefix list; the test knows its entry.
	hint.AutoApprovers.Routes[netip.MustParsePrefix("192.168.7.0/24")] = nil
	for _, advertised := range plan.Advertise {
		if !covered(advertised, hint.AutoApprovers.Routes) {
			t.Errorf("%v is advertised, but %s does not approve it", advertised, c.AutoApprover)
		}
	}
	tags := strings.Split(c.Environment["ROUTER_TAGS"], ",")
	if g := hint.Grants; len(g) != 1 || !slices.Equal(g[0].Src, tags) || !slices.Equal(g[0].Dst, tags) || !slices.Equal(g[0].IP, []string{"udp:9003"}) {
		t.Errorf("the grants among routers are %v", g)
	}
	if slices.Contains(strings.Split(c.Environment["ROUTER_ROUTES"], ","), "vpc") && plan.DNS == nil {
		t.Errorf("router plan does not print a resolver: %s", out)
	}
	for _, n := range c.Nameservers {
		if plan.DNS != nil && !bytes.Contains(out, []byte(n.String())) {
			t.Errorf("split_dns is %v, but router plan prints %s", n, out)
		}
	}
}

// covered reports whether a policy file with these approvers approves p.
func covered(p netip.Prefix, approvers map[netip.Prefix][]string) bool {
	for a := range approvers {
		if a.Bits() <= p.Bits() && a.Contains(p.Addr()) {
			return true
		}
	}
	return false
}

// runRouter runs the binary with the environment of a task definition and the variables
// that ECS adds.
func runRouter(t *testing.T, task, ecs map[string]string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Getenv(routerVar), args...)
	cmd.Env = []string{"TS_NO_LOGS_NO_SUPPORT=true"}
	for _, env := range []map[string]string{task, ecs} {
		for k, v := range env {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("router %v with %v: %v\n%s", args, task, err, &stderr)
	}
	return out
}

// statements returns the statements of a policy by Sid.
func statements(t *testing.T, policy []byte) map[string]any {
	t.Helper()
	var p struct{ Statement []map[string]any }
	if err := json.Unmarshal(policy, &p); err != nil {
		t.Fatalf("%v in %s", err, policy)
	}
	all := map[string]any{}
	for _, s := range p.Statement {
		all[s["Sid"].(string)] = s
	}
	return all
}

// value returns a planned attribute.
func (p plan) value(t *testing.T, address, attribute string) string {
	t.Helper()
	var find func(m module) (string, bool)
	find = func(m module) (string, bool) {
		for _, r := range m.Resources {
			if s, ok := r.Values[attribute].(string); ok && r.Address == address {
				return s, true
			}
		}
		for _, child := range m.ChildModules {
			if s, ok := find(child); ok {
				return s, true
			}
		}
		return "", false
	}
	s, ok := find(p.PlannedValues.RootModule)
	if !ok {
		t.Fatalf("the plan has no value for %s of %s", attribute, address)
	}
	return s
}
