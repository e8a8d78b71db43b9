package image

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// release runs scripts/release with a folder of its own.
func release(t *testing.T, env []string, args ...string) (dist, out string, err error) {
	t.Helper()
	dist = t.TempDir()
	cmd := exec.Command(filepath.Join(root, "scripts/release"), args...)
	cmd.Env = append(append(os.Environ(), "DIST="+dist), env...)
	b, err := cmd.CombinedOutput()
	return dist, string(b), err
}

func TestReleaseRefuses(t *testing.T) {
	_, out, err := release(t, []string{"DRY_RUN="}, "banana")
	if err == nil {
		t.Fatal("a release of nothing was made")
	}
	for _, want := range []string{"'banana' is no version", "nowhere to push to", "no section '## banana'"} {
		if !strings.Contains(out, want) {
			t.Errorf("the problems lack %q:\n%s", want, out)
		}
	}
}

// TestReleaseDryRun makes all that a release consists of.
func TestReleaseDryRun(t *testing.T) {
	requireRouterImage(t)
	dist, out, err := release(t, []string{"DRY_RUN=1", "PLATFORMS=linux/" + arch(t, routerImage)}, "9.8.7")
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	dist = filepath.Join(dist, "9.8.7")
	check := exec.Command("sha256sum", "--check", "--strict", "SHA256SUMS")
	check.Dir = dist
	if b, err := check.CombinedOutput(); err != nil || strings.Count(string(b), ": OK") != 3 {
		t.Errorf("checksums of binary, parts list and image: %v: %s", err, b)
	}
	version, err := exec.Command(filepath.Join(dist, "router-linux-"+arch(t, routerImage)), "version").Output()
	if err != nil || !strings.Contains(string(version), "9.8.7") {
		t.Errorf("the binary says %q, %v", version, err)
	}
	notes, err := os.ReadFile(filepath.Join(dist, "notes.md"))
	if err != nil || !strings.Contains(string(notes), "### Added") || !strings.Contains(string(notes), "@sha256:") {
		t.Errorf("notes: %v: %s", err, notes)
	}
}
