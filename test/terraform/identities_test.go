package terraform

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// TestImportIdentity moves a router's state from EFS into a table, as UPGRADING.md explains:
// the file system stays until the identity is in the table, and one task at a time runs
// meanwhile.
func TestImportIdentity(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	a.SettleRoles()
	a.writeRouter("call", `state = "efs"`)
	a.init("call")
	a.apply("call")
	fileSystem := a.fileSystem()

	a.writeRouter("call", "state = \"dynamodb\"\n  state_import_efs = true")
	for _, c := range a.plan("call").ResourceChanges {
		if strings.HasPrefix(c.Type, "aws_efs_") && !c.has("no-op") {
			t.Errorf("the import changes %s: %v", c.Address, c.Change.Actions)
		}
	}
	a.run("call", "apply", "plan")
	a.noChange("call")
	d := a.taskDefinition("edge")
	env := d.environment(t)
	if got := env["ROUTER_STATE_IMPORT"]; got != "/var/lib/tailscale" || !strings.HasPrefix(env["ROUTER_STATE"], "dynamodb:edge-identities?slots=1&kms=arn:aws:kms:") {
		t.Errorf("during the import, the environment is %v", env)
	}
	mounts, _ := d.container(t)["mountPoints"].([]any)
	if len(d.Volumes) != 1 || d.Volumes[0].EFSVolumeConfiguration.FileSystemID != fileSystem || len(mounts) != 1 || !readOnly(mounts[0]) {
		t.Errorf("during the import, the task mounts %v of %+v, want %s read-only", mounts, d.Volumes, fileSystem)
	}
	if percents := a.percents("edge"); percents != [2]float64{0, 100} {
		t.Errorf("during the import, a deployment may run %v percent of the tasks, want 0 to 100", percents)
	}

	a.writeRouter("call", "state = \"dynamodb\"\n  desired_count = 2")
	for _, c := range a.plan("call").ResourceChanges {
		if (c.Type == "aws_dynamodb_table" || c.Type == "aws_kms_key") && !c.has("no-op") {
			t.Errorf("the end of the import changes %s: %v", c.Address, c.Change.Actions)
		}
	}
	a.run("call", "apply", "plan")
	a.noChange("call")
	d = a.taskDefinition("edge")
	env = d.environment(t)
	if env["ROUTER_STATE_IMPORT"] != "" || !strings.HasPrefix(env["ROUTER_STATE"], "dynamodb:edge-identities?slots=4&") || len(d.Volumes) != 0 {
		t.Errorf("after the import, the environment is %v, the volumes are %v", env, d.Volumes)
	}
	if percents := a.percents("edge"); percents != [2]float64{100, 200} {
		t.Errorf("after the import, a deployment may run %v percent of the tasks, want 100 to 200", percents)
	}

	// The table is protected until the module is told otherwise.
	if out, err := a.try("call", "destroy", "-auto-approve", "-target=module.router.aws_dynamodb_table.state"); err == nil || !strings.Contains(out, "DeletionProtectionEnabled") {
		t.Errorf("destroying the table: %v\n%s", err, out)
	}
	a.writeRouter("call", "state = \"dynamodb\"\n  dynamodb_deletion_protection = false")
	a.apply("call")
	a.run("call", "destroy", "-auto-approve")
}

// TestAutoscaling: an apply keeps the number of tasks that Application Auto Scaling has set,
// within its bounds. The cluster is created in the same apply.
func TestAutoscaling(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	a.SettleRoles()
	a.untaggedScaling()
	call := func(arguments string) {
		a.writeRouter("call", "state = \"dynamodb\"\n  dynamodb_deletion_protection = false\n  "+arguments)
		a.edit("call/main.tf", a.world["cluster_arn"], "${aws_ecs_cluster.new.arn}")
	}
	a.write("call/cluster.tf", "resource \"aws_ecs_cluster\" \"new\" {\n  name = \"new\"\n}\n")
	call("autoscaling = { min = 1, max = 4 }")
	a.init("call")
	a.apply("call")
	a.noChange("call")
	check := func(when string, want float64) {
		t.Helper()
		if got := a.service("new", "edge")["desiredCount"]; got != want {
			t.Errorf("%s, the service has %v tasks, want %v", when, got, want)
		}
	}
	check("at first", 1)

	a.json("ecs", ecsTarget+"UpdateService", map[string]any{"cluster": "new", "service": "edge", "desiredCount": 3}, nil)
	a.noChange("call")
	call("autoscaling = { min = 1, max = 4 }\n  log_level = \"debug\"") // a deployment
	for _, c := range a.plan("call").ResourceChanges {
		if c.Type == "aws_ecs_service" && (!c.has("update") || c.Change.After["desired_count"] != 3.0) {
			t.Errorf("a deployment after a scale-out: %v of %s, to %v tasks", c.Change.Actions, c.Address, c.Change.After["desired_count"])
		}
	}
	a.run("call", "apply", "plan")
	check("after a deployment", 3)

	call("autoscaling = { min = 4, max = 6 }")
	a.apply("call")
	check("with a larger minimum", 4)
	a.noChange("call")

	call("desired_count = 2")
	a.apply("call")
	check("without autoscaling", 2)
	a.noChange("call")

	call("autoscaling = { min = 1, max = 4 }\n  desired_count = 2")
	a.apply("call")
	check("with autoscaling again", 2)
	a.noChange("call")
	a.run("call", "destroy", "-auto-approve")
}

// writeRouter writes a call named "edge" with more arguments.
func (a account) writeRouter(dir, arguments string) {
	a.t.Helper()
	a.write(dir+"/provider.tf", provider)
	a.write(dir+"/main.tf", fmt.Sprintf(`
module "router" {
  source = "../module"

  name                  = "edge"
  vpc_id                = %q
  subnet_ids            = [%q, %q]
  create_security_group = true
  cluster_arn           = "%s"
  auth_secret_arn       = %q
  image                 = "registry.example.com/subnetrouter:1"
  %s
}
`, a.world["vpc_id"], a.world["subnet_a"], a.world["subnet_b"], a.world["cluster_arn"], a.world["secret_arn"], arguments))
}

// service returns the description of a service.
func (a account) service(cluster, name string) map[string]any {
	a.t.Helper()
	var out struct{ Services []map[string]any }
	a.json("ecs", ecsTarget+"DescribeServices", map[string]any{"cluster": cluster, "services": []string{name}}, &out)
	if len(out.Services) != 1 {
		a.t.Fatalf("cluster %s has %d services %s", cluster, len(out.Services), name)
	}
	return out.Services[0]
}

// percents returns the minimum and maximum percentage of a service's tasks in a deployment.
func (a account) percents(service string) [2]float64 {
	a.t.Helper()
	c, _ := a.service(a.world["cluster_arn"], service)["deploymentConfiguration"].(map[string]any)
	least, _ := c["minimumHealthyPercent"].(float64)
	most, _ := c["maximumPercent"].(float64)
	return [2]float64{least, most}
}

// untaggedScaling sends calls of Application Auto Scaling to a proxy that answers those about
// tags, which moto does not know.
func (a *account) untaggedScaling() {
	a.t.Helper()
	target, err := url.Parse(a.URL())
	if err != nil {
		a.t.Fatal(err)
	}
	forward := httputil.NewSingleHostReverseProxy(target)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, action, _ := strings.Cut(r.Header.Get("X-Amz-Target"), "."); slices.Contains([]string{"ListTagsForResource", "TagResource", "UntagResource"}, action) {
			w.Header().Set("Content-Type", "application/x-amz-json-1.1")
			fmt.Fprint(w, `{"Tags":{}}`)
			return
		}
		forward.ServeHTTP(w, r)
	}))
	a.t.Cleanup(proxy.Close)
	a.env = append(a.env, "AWS_ENDPOINT_URL_APPLICATION_AUTO_SCALING="+proxy.URL)
	a.plugin.stop()
}

// readOnly reports whether a mount point of a container is read-only.
func readOnly(mount any) bool {
	m, _ := mount.(map[string]any)
	set, _ := m["readOnly"].(bool)
	return set
}
