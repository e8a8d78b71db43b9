package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"subnetrouter/internal/privilege"
)

// TestRelease runs `make release` for one platform as a dry run. It fetches nothing that
// earlier builds have fetched, but BuildKit may have dropped that from its cache, so the
// module proxy stays reachable.
func TestRelease(t *testing.T) {
	requireRouterImage(t)
	dir := t.TempDir()
	const version = "9.8.7-test.1"
	release := exec.Command("make", "--no-print-directory", "release", "DRY_RUN=1", "VERSION="+version)
	release.Dir = root
	release.Env = append(os.Environ(), "PLATFORMS=linux/amd64", "DIST="+dir)
	if out, err := release.CombinedOutput(); err != nil {
		t.Fatalf("make release: %v\n%s", err, out)
	}
	dist := filepath.Join(dir, version)

	var names []string
	for _, e := range entries(t, dist) {
		names = append(names, e.Name())
	}
	want := "SHA256SUMS image.oci.tar notes.md router-linux-amd64 sbom-linux-amd64.cdx.json"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("the release has %s, want %s", got, want)
	}
	// The assembled layers keep the capabilities of the image's binary, without which only root has kernel mode.
	if got := layoutAttribute(t, filepath.Join(dist, "image.oci.tar"), "router", privilege.Attribute); got != string(privilege.OfFile.AttributeValue()) {
		t.Errorf("the capabilities of the binary in the image are %x", got)
	}
	sums := exec.Command("sha256sum", "--check", "--strict", "SHA256SUMS")
	sums.Dir = dist
	if out, err := sums.CombinedOutput(); err != nil || strings.Count(string(out), ": OK\n") != 3 {
		t.Errorf("checking the sums: %v\n%s", err, out)
	}
	binary := filepath.Join(dist, "router-linux-amd64")
	if info, err := buildinfo.ReadFile(binary); err != nil || info.Path != "subnetrouter/cmd/router" {
		t.Errorf("the binary: %v, %v", info, err)
	}
	for _, file := range []string{binary, filepath.Join(dist, "sbom-linux-amd64.cdx.json")} {
		if text := read(t, file); !bytes.Contains(text, []byte(version)) {
			t.Errorf("%s does not name the version", file)
		}
	}
	notes := string(read(t, filepath.Join(dist, "notes.md")))
	for _, part := range []string{"### Added\n", "@" + layoutDigest(t, filepath.Join(dist, "image.oci.tar"))} {
		if !strings.Contains(notes, part) {
			t.Errorf("the notes lack %q:\n%s", part, notes)
		}
	}
}

// TestReleaseRefuses: a release that lacks several things reports all of them together,
// before it builds anything.
func TestReleaseRefuses(t *testing.T) {
	release := exec.Command(filepath.Join(root, "scripts/release"), "1.2")
	release.Env = append(os.Environ(), "DRY_RUN=")
	out, err := release.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 {
		t.Errorf("scripts/release exited with %v, want code 2", err)
	}
	for _, problem := range []string{"not a version like 1.2.3", "no repository to push to", "no section '## 1.2'", "v1.2 is not a tag"} {
		if !strings.Contains(string(out), problem) {
			t.Errorf("the output lacks %q:\n%s", problem, out)
		}
	}
}

// TestJobs: the jobs of CI together run every part of `make test`, and nothing else.
func TestJobs(t *testing.T) {
	workflow := string(read(t, filepath.Join(root, ".github/workflows/ci.yml")))
	var jobs []string
	for _, m := range regexp.MustCompile(`(?m)^ +targets: (.+)$`).FindAllStringSubmatch(workflow, -1) {
		jobs = append(jobs, strings.Fields(m[1])...)
	}
	plan := func(targets ...string) map[string]bool {
		dry := exec.Command("make", append([]string{"--no-print-directory", "--dry-run"}, targets...)...)
		dry.Dir = root
		out, err := dry.CombinedOutput()
		if err != nil {
			t.Fatalf("make --dry-run %v: %v\n%s", targets, err, out)
		}
		parts := map[string]bool{}
		for _, part := range regexp.MustCompile(`\./[a-z0-9/]+/\.\.\.|golangci-lint' run`).FindAllString(string(out), -1) {
			parts[part] = true
		}
		return parts
	}
	all, some := plan("test"), plan(jobs...)
	if len(all) < 9 || !maps.Equal(all, some) {
		t.Errorf("make test runs %v, but the jobs run %v", all, some)
	}
}

// TestPush: build tags are not used as image tags, and values are not run as commands. The
// test's shell prints the arguments of scripts/push instead of running it.
func TestPush(t *testing.T) {
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "sh"), []byte("#!/bin/sh\nprintf() { command printf '%s|' \"$@\"; }\neval \"printf ${2#scripts/push}\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for tags, want := range map[string]string{"": "r/$(n)|", "1.2.3 latest": "r/$(n)|1.2.3|latest|"} {
		push := exec.Command("make", "--no-print-directory", "push", "SHELL="+filepath.Join(bin, "sh"), "REPOSITORY=r/$$(n)")
		if tags != "" {
			push.Args = append(push.Args, "TAGS="+tags)
		}
		push.Dir = root
		out, err := push.CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != want {
			t.Errorf("TAGS=%q: %v, %s, want %s", tags, err, out, want)
		}
	}
}

// layoutAttribute returns an extended attribute of a file in the layers of an OCI layout.
func layoutAttribute(t *testing.T, archive, file, attribute string) string {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(read(t, archive))); ; {
		if _, err := r.Next(); err != nil {
			t.Fatalf("looking for %s in %s: %v", file, archive, err)
		}
		unzipped, err := gzip.NewReader(r)
		if err != nil {
			continue // not a layer
		}
		for layer := tar.NewReader(unzipped); ; {
			h, err := layer.Next()
			if err != nil {
				break
			}
			if h.Name == file {
				return h.PAXRecords["SCHILY.xattr."+attribute]
			}
		}
	}
}

// layoutDigest returns the digest of the only image in an OCI layout.
func layoutDigest(t *testing.T, archive string) string {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(read(t, archive))); ; {
		h, err := r.Next()
		if err != nil {
			t.Fatalf("looking for the index of %s: %v", archive, err)
		}
		if h.Name != "./index.json" {
			continue
		}
		var index struct{ Manifests []struct{ Digest string } }
		b, err := io.ReadAll(r)
		if err == nil {
			err = json.Unmarshal(b, &index)
		}
		if err == nil && len(index.Manifests) != 1 {
			err = fmt.Errorf("it lists %d images", len(index.Manifests))
		}
		if err != nil {
			t.Fatalf("the index of %s: %v", archive, err)
		}
		return index.Manifests[0].Digest
	}
}

func entries(t *testing.T, dir string) []os.DirEntry {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
