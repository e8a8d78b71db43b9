// Package terraform holds the Terraform module to what its users do with it:
// the real program and the real provider, against moto_server, in a network
// namespace without a way out.
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

// What the part of TestMain that still has a network hands to the tests.
const (
	routerVar = "TEST_TERRAFORM_ROUTER" // the binary, as it ships
	mirrorVar = "TEST_TERRAFORM_MIRROR" // a folder with the provider
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
		} else {
			env = append(env, mirrorVar+"="+mirror)
		}
		return env, nil
	})
	os.RemoveAll(dir)
	os.Exit(code)
}

// findMirror returns a folder that holds the provider as a file system mirror
// does: one of the machine's, or the cache of these tests, into which it is
// downloaded once.
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
	// Complete or not at all: other test processes look for it too.
	fresh, err := os.MkdirTemp(filepath.Dir(cache), "terraform-providers-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(fresh)
	out, err := exec.Command("terraform", "-chdir=testdata/mirror", "providers", "mirror", fresh).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("no mirror of terraform's providers on this machine, and downloading one: %w\n%s", err, out)
	}
	if err := os.Rename(fresh, cache); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return cache, nil
}

// skipOrFail skips on a user's machine; CI has everything.
func skipOrFail(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}
