package terraform

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// storedState returns the path of a state in testdata: of Hardfin's module, of its
// submodule, and of commit 21d0de2 of this module. The IDs of the account's other resources
// are replaced by the names of testdata/world's outputs.
func storedState(name string) string { return filepath.Join("testdata", "states", name+".json") }

// storeState writes the state of a configuration to testdata if the flag update is set.
func (a account) storeState(dir, name string) {
	a.t.Helper()
	if !*update {
		return
	}
	b, err := os.ReadFile(filepath.Join(a.dir, dir, "terraform.tfstate"))
	if err != nil {
		a.t.Fatal(err)
	}
	var pairs []string
	for output, id := range a.world {
		if len(id) > 10 { // not an address such as 10.0.1.4
			pairs = append(pairs, id, "{{"+output+"}}")
		}
	}
	if err := os.WriteFile(storedState(name), []byte(strings.NewReplacer(pairs...).Replace(string(b))), 0o644); err != nil {
		a.t.Fatal(err)
	}
}

// loadState makes a stored state that of a configuration, and returns the ID of its first
// file system.
func (a account) loadState(name, dir string) (fileSystem string) {
	a.t.Helper()
	b, err := os.ReadFile(storedState(name))
	if err != nil {
		a.t.Fatal(err)
	}
	var pairs []string
	for output, id := range a.world {
		pairs = append(pairs, "{{"+output+"}}", id)
	}
	text := strings.NewReplacer(pairs...).Replace(string(b))
	if i := strings.Index(text, "{{"); i >= 0 {
		a.t.Fatalf("%s has an unknown name: %.40s", storedState(name), text[i:])
	}
	a.write(dir+"/terraform.tfstate", text)
	var state struct {
		Resources []struct {
			Type      string
			Instances []struct{ Attributes map[string]any }
		}
	}
	if err := json.Unmarshal([]byte(text), &state); err != nil {
		a.t.Fatal(err)
	}
	for _, r := range state.Resources {
		if r.Type == "aws_efs_file_system" && len(r.Instances) == 1 {
			return r.Instances[0].Attributes["id"].(string)
		}
	}
	a.t.Fatalf("%s has no file system", storedState(name))
	return ""
}

// TestStoredStates plans this module with states that earlier modules have written: the
// plans destroy no file system, and with it no identity of a node. TestMigration,
// TestSubmoduleMigration and TestUpgrade write the states with the flag -update, and apply
// such plans.
func TestStoredStates(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	unrefreshed := func(dir string) plan { return a.plan(dir, "-refresh=false") } // the account has nothing of the state

	a.callFrom("hardfin-call", "../module")
	a.loadState("hardfin", "hardfin-call")
	a.checkMigrationPlan(unrefreshed("hardfin-call"), "module.sandbox.module.subnet_router.")

	fileSystem := a.loadState("submodule", "submodule-call")
	a.callSubmodule("submodule-call", "../module", keepNode(fileSystem))
	p := unrefreshed("submodule-call")
	a.checkMigrationPlan(p, "module.sandbox.")
	if got := p.value(t, "module.sandbox.aws_efs_access_point.state[0]", "file_system_id"); got != fileSystem {
		t.Errorf("the node's state is on %s, want %s as before", got, fileSystem)
	}

	a.loadState("before", "before-call")
	a.callUpgraded("before-call", "../module")
	a.keepMountTargets("before-call")
	a.checkUpgradePlan(unrefreshed("before-call"))
}
