package terraform

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"subnetrouter/internal/netnstest"
)

// workspace is a folder for configurations, with a copy of the module that they call and
// the settings that let terraform run offline.
type workspace struct {
	t      *testing.T
	dir    string
	env    []string
	plugin *plugin // of all its commands, which run one after another
}

func newWorkspace(t *testing.T, env map[string]string) workspace {
	t.Helper()
	netnstest.Require(t)
	if _, err := exec.LookPath("terraform"); err != nil {
		skipOrFail(t, "terraform is not on PATH")
	}
	mirror := os.Getenv(mirrorVar)
	if mirror == "" {
		skipOrFail(t, "there is no mirror of terraform's providers (see the beginning of the output)")
	}
	w := workspace{t: t, dir: t.TempDir(), plugin: &plugin{}}
	w.write("terraformrc", offline(mirror))
	w.env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + w.dir, "TMPDIR=" + w.dir,
		"TF_CLI_CONFIG_FILE=" + filepath.Join(w.dir, "terraformrc"), "TF_IN_AUTOMATION=1", "TF_INPUT=0", "TF_CLI_ARGS=-no-color",
		// Half of the processor time of a command is garbage collection: the provider's schema is large.
		"GOGC=400",
	}
	for k, v := range env {
		w.env = append(w.env, k+"="+v)
	}
	w.copy("module", "../../deploy/terraform")
	return w
}

func (w workspace) write(name, text string) {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		w.t.Fatal(err)
	}
}

// copy copies a folder of the checkout, without files that terraform writes.
func (w workspace) copy(name, from string) {
	w.t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if strings.HasPrefix(d.Name(), ".terraform") {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.IsDir() {
			return nil
		}
		b, err := os.ReadFile(path)
		if err == nil {
			w.write(filepath.Join(name, rel), string(b))
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// provider is the provider block of a root module that uses moto; the environment has the
// other settings.
const provider = `provider "aws" {
  region                      = "eu-west-1"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  max_retries                 = 2
}
`

// try runs terraform in a folder of the workspace.
func (w workspace) try(dir string, args ...string) (out string, err error) {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), "terraform", args...)
	cmd.Dir = filepath.Join(w.dir, dir)
	cmd.Env = append(slices.Clone(w.env), w.attach())
	b, err := cmd.CombinedOutput()
	return string(b), err
}

func (w workspace) run(dir string, args ...string) string {
	w.t.Helper()
	out, err := w.try(dir, args...)
	if err != nil {
		w.t.Fatalf("terraform %s in %s: %v\n%s", strings.Join(args, " "), dir, err, out)
	}
	return out
}

func (w workspace) init(dir string) {
	w.t.Helper()
	w.run(dir, "init", "-backend=false")
}

func (w workspace) apply(dir string) {
	w.t.Helper()
	w.run(dir, "apply", "-auto-approve")
}

// noChange fails the test unless the plan is empty.
func (w workspace) noChange(dir string) {
	w.t.Helper()
	if out, err := w.try(dir, "plan", "-detailed-exitcode"); err != nil {
		w.t.Errorf("the plan is not empty (%v):\n%s", err, out)
	}
}

// outputValue is the planned value of an output.
type outputValue struct{ Value json.RawMessage }

// plan holds the fields of `terraform show -json` that the tests use.
type plan struct {
	ResourceChanges []change `json:"resource_changes"`
	PlannedValues   struct {
		Outputs    map[string]outputValue
		RootModule module `json:"root_module"`
	} `json:"planned_values"`
	Configuration struct {
		RootModule configuration `json:"root_module"`
	}
}

type change struct {
	Address         string
	PreviousAddress string `json:"previous_address"`
	Type, Mode      string
	Change          struct {
		Actions []string
		After   map[string]any
	}
}

// has reports whether the change has the action: "create", "update", "delete", "forget".
func (c change) has(action string) bool { return slices.Contains(c.Change.Actions, action) }

type module struct {
	Resources []struct {
		Address string
		Values  map[string]any
	}
	ChildModules []module `json:"child_modules"`
}

func (w workspace) plan(dir string, options ...string) (p plan) {
	w.t.Helper()
	w.run(dir, append([]string{"plan", "-out=plan"}, options...)...)
	// Without standard error, which has warnings.
	cmd := exec.CommandContext(w.t.Context(), "terraform", "show", "-json", "plan")
	cmd.Dir, cmd.Env = filepath.Join(w.dir, dir), append(slices.Clone(w.env), w.attach())
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, &p)
	}
	if err != nil {
		w.t.Fatalf("reading the plan of %s: %v", dir, err)
	}
	return p
}

// outputs returns the string outputs of a root module.
func (w workspace) outputs(dir string) map[string]string {
	w.t.Helper()
	var all map[string]struct{ Value any }
	if err := json.Unmarshal([]byte(w.run(dir, "output", "-json")), &all); err != nil {
		w.t.Fatal(err)
	}
	out := map[string]string{}
	for k, v := range all {
		if s, ok := v.Value.(string); ok {
			out[k] = s
		}
	}
	return out
}
