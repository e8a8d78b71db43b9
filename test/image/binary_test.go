package image

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// TestReproducible builds the image's binary again, on this machine and in another folder.
func TestReproducible(t *testing.T) {
	requireRouterImage(t)
	shipped := copyOut(t, "/router")
	info, err := buildinfo.ReadFile(shipped)
	if err != nil {
		t.Fatal(err)
	}
	label := func(name string) string {
		return docker(t, "image", "inspect", "--format", fmt.Sprintf("{{index .Config.Labels %q}}", name), routerImage)
	}
	again := filepath.Join(t.TempDir(), "router")
	build := exec.Command(filepath.Join(root, "scripts/build"), again)
	build.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+arch(t, routerImage),
		"GOTOOLCHAIN="+info.GoVersion, // the builder image may have another version than this machine
		"VERSION="+label("org.opencontainers.image.version"), "REVISION="+label("org.opencontainers.image.revision"))
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building again: %v\n%s", err, out)
	}
	a, b := sum(t, shipped), sum(t, again)
	t.Logf("sha256 %x, by %s", a, info.GoVersion)
	if a != b {
		t.Errorf("the image's binary has sha256 %x, the one built here %x", a, b)
	}
}

// TestSBOM compares the SBOM in the image with the build information of the binary.
func TestSBOM(t *testing.T) {
	requireRouterImage(t)
	info, err := buildinfo.ReadFile(copyOut(t, "/router"))
	if err != nil {
		t.Fatal(err)
	}
	list, err := os.ReadFile(copyOut(t, "/licenses/sbom.cdx.json"))
	if err != nil {
		t.Fatal(err)
	}
	notices, err := os.ReadFile(copyOut(t, "/licenses/THIRD_PARTY_NOTICES"))
	if err != nil {
		t.Fatal(err)
	}
	type component struct{ Name, Version, PURL string }
	var bom struct {
		BOMFormat  string
		Metadata   struct{ Component component }
		Components []component
	}
	if err := json.Unmarshal(list, &bom); err != nil {
		t.Fatal(err)
	}
	version := docker(t, "image", "inspect", "--format", `{{index .Config.Labels "org.opencontainers.image.version"}}`, routerImage)
	if c := bom.Metadata.Component; bom.BOMFormat != "CycloneDX" || c.Name != "subnetrouter" || c.Version != version {
		t.Errorf("the %q SBOM describes %s %s, want CycloneDX of subnetrouter %s", bom.BOMFormat, c.Name, c.Version, version)
	}
	want := []string{"std " + info.GoVersion}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		want = append(want, m.Path+" "+m.Version)
		if !bytes.Contains(notices, []byte(m.Path+" "+m.Version)) {
			t.Errorf("the notices lack %s %s", m.Path, m.Version)
		}
	}
	var got []string
	for _, c := range bom.Components {
		got = append(got, c.Name+" "+c.Version)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the SBOM lists\n%q\nbut the binary has\n%q", got, want)
	}
}

// copyOut copies a file out of the image.
func copyOut(t *testing.T, path string) string {
	t.Helper()
	id := docker(t, "create", "--network", "none", routerImage)
	t.Cleanup(func() { tryDocker("rm", "--volumes", id) })
	file := filepath.Join(t.TempDir(), filepath.Base(path))
	docker(t, "cp", id+":"+path, file)
	return file
}

func arch(t *testing.T, image string) string {
	t.Helper()
	return docker(t, "image", "inspect", "--format", "{{.Architecture}}", image)
}

func sum(t *testing.T, file string) [sha256.Size]byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(b)
}
