// Package terraform tests the Terraform module as its users call it: with the real program
// and the real provider, against moto_server, in a network namespace without Internet
// access.
package terraform

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"subnetrouter/internal/netnstest"
)

// Variables that pass results from the part of TestMain that has a network to the tests.
const (
	routerVar = "TEST_TERRAFORM_ROUTER" // the binary, as shipped
	mirrorVar = "TEST_TERRAFORM_MIRROR" // a folder with the provider
	pluginVar = "TEST_TERRAFORM_PLUGIN" // the provider's program
)

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "terraform-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := netnstest.Main(m, func() ([]string, error) {
		router := filepath.Join(dir, "router")
		if out, err := exec.Command("../../scripts/build", router).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("building router: %w\n%s", err, out)
		}
		env := []string{routerVar + "=" + router}
		mirror, err := findMirror()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return env, nil
		}
		plugin, err := unpackPlugin(mirror, filepath.Join(dir, "plugin"))
		return append(env, mirrorVar+"="+mirror, pluginVar+"="+plugin), err
	})
	os.RemoveAll(dir)
	os.Exit(code)
}

// findMirror returns a folder with the provider in the layout of a file system mirror: a
// mirror of the machine, or the cache of these tests, into which it downloads the provider
// once.
func findMirror() (string, error) {
	const provider = "registry.terraform.io/hashicorp/aws"
	home, _ := os.UserHomeDir()
	cache, _ := os.UserCacheDir()
	cache = filepath.Join(cache, "subnetrouter", "terraform-providers")
	places := []string{
		os.Getenv("TF_PLUGIN_MIRROR"), filepath.Join(home, ".terraform.d/plugins"),
		"/usr/share/terraform/plugins", "/usr/local/share/terraform/plugins", cache,
	}
	opt, _ := filepath.Glob("/opt/*")
	for _, place := range append(places, opt...) {
		if s, err := os.Stat(filepath.Join(place, provider)); place != "" && err == nil && s.IsDir() {
			return place, nil
		}
	}
	if _, err := exec.LookPath("terraform"); err != nil {
		return "", errors.New("terraform is not on PATH")
	}
	if err := os.MkdirAll(filepath.Dir(cache), 0o755); err != nil {
		return "", err
	}
	// Rename a complete folder: other test processes look for it too.
	fresh, err := os.MkdirTemp(filepath.Dir(cache), "terraform-providers-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(fresh)
	out, err := exec.Command("terraform", "-chdir=testdata/mirror", "providers", "mirror", fresh).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("this machine has no mirror of Terraform providers; downloading one: %w\n%s", err, out)
	}
	if err := os.Rename(fresh, cache); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return cache, nil
}

// skipOrFail skips the test, or fails it in CI, which has every program.
func skipOrFail(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}
