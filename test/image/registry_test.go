package image

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"subnetrouter/internal/testwait"
)

// startRegistry runs Debian's docker-registry on loopback, from which engines pull without
// TLS, and returns its address.
func startRegistry(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		skipOrFail(t, err.Error()+": scripts/tools installs it")
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %s/data}}\nhttp: {addr: %q}\n", dir, address)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	registry := exec.Command(program, "serve", config)
	registry.Env = []string{"OTEL_TRACES_EXPORTER=none"}
	registry.Stdout, registry.Stderr = &log, &log
	if err := registry.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		registry.Process.Kill()
		registry.Wait() // returns "signal: killed"
		if t.Failed() {
			t.Logf("the registry's log:\n%s", log.String())
		}
	})
	testwait.Until(t, "an answer of the registry", func() error {
		res, err := http.Get("http://" + address + "/v2/")
		if err == nil {
			res.Body.Close()
		}
		return err
	})
	return address
}

// pushed is an image that was pushed to a registry.
type pushed struct {
	name      string           // registry/repository@digest
	transfers map[string]int64 // by platform, bytes
}

// push runs scripts/push, as `make push` does.
func push(t *testing.T, registry string) pushed {
	t.Helper()
	cmd := exec.Command(filepath.Join(root, "scripts/push"), registry+"/subnetrouter", "test", "latest")
	var log strings.Builder
	cmd.Stderr = &log
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("pushing: %v\n%s", err, log.String())
	}
	p := pushed{strings.TrimSpace(string(out)), map[string]int64{}}
	digest, ok := strings.CutPrefix(p.name, registry+"/subnetrouter@")
	if !ok {
		t.Fatalf("make push printed %q, not REPOSITORY@DIGEST", out)
	}

	type descriptor struct {
		Digest   string
		Size     int64
		Platform struct{ OS, Architecture string }
	}
	type manifest struct {
		Manifests, Layers []descriptor
		Config            descriptor
	}
	get := func(reference string) (m manifest, digest string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+registry+"/v2/subnetrouter/manifests/"+reference, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if err := json.NewDecoder(res.Body).Decode(&m); err != nil || res.StatusCode != http.StatusOK {
			t.Fatalf("manifest %s: HTTP %d, %v", reference, res.StatusCode, err)
		}
		return m, res.Header.Get("Docker-Content-Digest")
	}
	for _, tag := range []string{"test", "latest"} {
		if _, got := get(tag); got != digest {
			t.Errorf("the tag %s has the digest %s, but make push printed %s", tag, got, digest)
		}
	}
	index, _ := get(digest)
	for _, image := range index.Manifests {
		m, _ := get(image.Digest)
		size := m.Config.Size
		for _, l := range m.Layers {
			size += l.Size
		}
		p.transfers[image.Platform.OS+"/"+image.Platform.Architecture] = size
	}
	return p
}
