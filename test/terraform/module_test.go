package terraform

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestFormat: `terraform fmt` changes nothing.
func TestFormat(t *testing.T) {
	w := newWorkspace(t, nil)
	w.copy("testdata", "testdata")
	for _, dir := range []string{"module", "testdata"} {
		if out, err := w.try(dir, "fmt", "-check", "-recursive", "-diff"); err != nil {
			t.Errorf("terraform fmt in %s: %v\n%s", dir, err, out)
		}
	}
}

// TestModuleTree: scripts/module writes a module that works outside of the checkout, with
// its examples.
func TestModuleTree(t *testing.T) {
	t.Parallel()
	w := newWorkspace(t, map[string]string{"AWS_REGION": "eu-west-1"})
	tree := filepath.Join(w.dir, "terraform-aws-tailscale-subnet-router")
	if out, err := exec.Command("../../scripts/module", tree).CombinedOutput(); err != nil {
		t.Fatalf("scripts/module: %v\n%s", err, out)
	}
	if exec.Command("../../scripts/module", tree).Run() == nil {
		t.Error("scripts/module wrote into a folder that is not empty")
	}
	for _, file := range []string{"README.md", "UPGRADING.md", "CHANGELOG.md", "LICENSE", "main.tf", "variables.tf", "outputs.tf", "versions.tf"} {
		b, err := os.ReadFile(filepath.Join(tree, file))
		if err != nil {
			t.Error(err)
		}
		for _, m := range regexp.MustCompile(`\]\(([^)#:]+)\)`).FindAllSubmatch(b, -1) {
			if strings.HasSuffix(file, ".md") {
				if _, err := os.Stat(filepath.Join(tree, string(m[1]))); err != nil {
					t.Errorf("%s links to %s, which is outside of the module", file, m[1])
				}
			}
		}
	}
	if err := os.RemoveAll(filepath.Join(w.dir, "module")); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{".", "examples/minimal", "examples/complete", "examples/private"} {
		w.init("terraform-aws-tailscale-subnet-router/" + dir)
		w.run("terraform-aws-tailscale-subnet-router/"+dir, "validate")
	}
}

// TestMocked runs deploy/terraform/tests.
func TestMocked(t *testing.T) {
	t.Parallel()
	w := newWorkspace(t, map[string]string{"AWS_REGION": "eu-west-1"})
	w.init("module")
	out := w.run("module", "test")
	if !regexp.MustCompile(`Success! [1-9]\d+ passed, 0 failed\.`).MatchString(out) {
		t.Errorf("terraform test:\n%s", out)
	}
}

// TestEveryConditionIsTested compares the number of conditions with the number of runs that
// violate one, since terraform test does not report conditions without a test.
func TestEveryConditionIsTested(t *testing.T) {
	tests := readAll(t, "tests/*.tftest.hcl")
	expected := func(name string) int {
		return len(regexp.MustCompile(`(?m)(^    |\[)`+regexp.QuoteMeta(name)+`[,\]]`).FindAllString(tests, -1))
	}
	for _, v := range blocks(t, "variable") {
		if want, got := strings.Count(v.body, "\n  validation {"), expected("var."+v.name); got < want {
			t.Errorf("variable %s has %d validations, but %d runs violate one", v.name, want, got)
		}
	}
	conditions := regexp.MustCompile(`\n    (pre|post)condition \{`)
	seen := 0
	for _, kind := range []string{"resource", "data"} {
		for _, r := range blocks(t, kind) {
			name := r.name
			if kind == "data" {
				name = "data." + name
			}
			want := len(conditions.FindAllString(r.body, -1))
			seen += want
			if got := expected(name); got < want {
				t.Errorf("%s has %d conditions, but %d runs violate one", name, want, got)
			}
		}
	}
	if want := len(conditions.FindAllString(readAll(t, "*.tf"), -1)); seen != want || want < 15 {
		t.Errorf("the module has %d conditions, but the test found %d", want, seen)
	}
}

// TestAlarmCountsWhatIsLogged: the alarm's log filter matches a line for which test/e2e
// waits in the log of the real router.
func TestAlarmCountsWhatIsLogged(t *testing.T) {
	m := regexp.MustCompile(`\$\.msg = \\"([^"\\]+)\\"`).FindStringSubmatch(readAll(t, "alarms.tf"))
	if m == nil {
		t.Fatal("alarms.tf has no filter for a message")
	}
	b, err := os.ReadFile("../e2e/start_test.go")
	if err != nil {
		t.Fatal(err)
	}
	if want := `"msg":"` + m[1] + `"`; !strings.Contains(string(b), want) {
		t.Errorf("test/e2e/start_test.go does not wait for %s", want)
	}
}

// block is a top-level block of the module.
type block struct{ name, body string }

// blocks returns the module's blocks of a kind, in order. It relies on the layout of fmt.
func blocks(t *testing.T, kind string) (all []block) {
	t.Helper()
	header := regexp.MustCompile(`(?ms)^` + kind + ` "([^"\n]+)"(?: "([^"\n]+)")? \{$(.*?)^\}$`)
	for _, m := range header.FindAllStringSubmatch(readAll(t, "*.tf"), -1) {
		name := m[1]
		if m[2] != "" {
			name += "." + m[2]
		}
		all = append(all, block{name, m[3]})
	}
	if len(all) == 0 {
		t.Fatalf("the module has no %s", kind)
	}
	return all
}

func readAll(t *testing.T, pattern string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("../../deploy/terraform", pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("no %s (%v)", pattern, err)
	}
	var all strings.Builder
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(b)
		all.WriteString("\n")
	}
	return all.String()
}

// TestNothing: with create = false, a plan has no resource and calls AWS for no look-up,
// for which there is no endpoint here.
func TestNothing(t *testing.T) {
	t.Parallel()
	w := newWorkspace(t, map[string]string{"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "none"})
	w.write("call/provider.tf", strings.Replace(provider, "max_retries", "skip_requesting_account_id = true\n  max_retries", 1))
	w.write("call/main.tf", `
module "router" {
  source = "../module"
  create = false

  vpc                         = "sandbox"
  subnet_group                = "private"
  target_ecs_cluster          = "main"
  tailscale_auth_key_secret   = "tailscale"
  tailscale_docker_repository = "tailscale"
  tailscale_docker_tag        = "1"
  state                       = "efs"
  create_security_group       = true
  metrics_ingress_cidrs       = ["10.0.9.0/24"]
  create_alarms               = true
  create_vpc_endpoints        = true
  enable_execute_command      = true
  service_discovery           = { namespace_id = "ns-0a" }
}
`)
	w.init("call")
	for _, c := range w.plan("call").ResourceChanges {
		t.Errorf("%s: %v", c.Address, c.Change.Actions)
	}
}
