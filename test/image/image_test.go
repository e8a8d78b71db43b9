package image

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// maxImage is the size budget of the image, in bytes. The three programs of the official
// image take 72 MB.
const maxImage = 36_000_000

func TestConfiguration(t *testing.T) {
	requireRouterImage(t)
	var got struct {
		Size         int64
		Architecture string
		Config       struct {
			User         string
			Entrypoint   []string
			Cmd          []string
			Env          []string
			ExposedPorts map[string]struct{}
			Labels       map[string]string
			Healthcheck  struct{ Test []string }
		}
	}
	if err := json.Unmarshal([]byte(docker(t, "image", "inspect", "--format", "{{json .}}", routerImage)), &got); err != nil {
		t.Fatal(err)
	}
	t.Logf("the image has %d bytes", got.Size)
	if got.Size > maxImage {
		t.Errorf("the image has %d bytes, more than %d", got.Size, maxImage)
	}
	c := got.Config
	for _, check := range []struct {
		what      string
		got, want any
	}{
		{"user", c.User, "65532:65532"},
		{"entrypoint", c.Entrypoint, []string{"/router"}},
		{"command", c.Cmd, []string(nil)},
		{"health check", c.Healthcheck.Test, []string{"CMD", "/router", "healthcheck"}},
		{"ports", c.ExposedPorts, map[string]struct{}{"9002/tcp": {}, "41641/udp": {}}},
		{"title", c.Labels["org.opencontainers.image.title"], "subnetrouter"},
		{"licenses", c.Labels["org.opencontainers.image.licenses"], "Apache-2.0"},
		{"vendor", c.Labels["org.opencontainers.image.vendor"], "subnetrouter"},
		// Registries and update bots link to the source and its changelog by these.
		{"source", c.Labels["org.opencontainers.image.source"], home(t)},
		{"url", c.Labels["org.opencontainers.image.url"], home(t)},
		{"documentation", c.Labels["org.opencontainers.image.documentation"], home(t) + "/blob/main/docs/README.md"},
	} {
		if !reflect.DeepEqual(check.got, check.want) {
			t.Errorf("%s: %#v, want %#v", check.what, check.got, check.want)
		}
	}
	for _, e := range c.Env {
		if !strings.HasPrefix(e, "PATH=") { // Docker's own
			t.Errorf("the image sets %s", e)
		}
	}

	// The labels match the output of router version.
	version := docker(t, "run", "--rm", "--network", "none", routerImage, "version")
	want := fmt.Sprintf("router %s\ncommit %s\ntailscale %s", c.Labels["org.opencontainers.image.version"],
		c.Labels["org.opencontainers.image.revision"], c.Labels["com.tailscale.version"])
	if version != want {
		t.Errorf("router version prints\n%s\nbut the labels are\n%s", version, want)
	}
}

// home returns the address of the repository.
func home(t *testing.T) string {
	t.Helper()
	return strings.TrimSpace(string(read(t, filepath.Join(root, "build/home"))))
}

func TestContents(t *testing.T) {
	requireRouterImage(t)
	id := docker(t, "create", "--network", "none", routerImage)
	t.Cleanup(func() { tryDocker("rm", "--volumes", id) })
	want := []string{
		"etc/passwd 644 0",
		"etc/ssl/certs/ca-certificates.crt 644 0",
		"licenses/LICENSE 644 0",
		"licenses/THIRD_PARTY_NOTICES 644 0",
		"licenses/sbom.cdx.json 644 0",
		"router 755 0",
		"tailscale -> router",
		"tmp/ 1777 0",
		"usr/local/bin/router -> /router",
		"usr/local/bin/tailscale -> /router",
		"var/lib/tailscale/ 700 65532",
		"var/run/tailscale/ 755 65532",
	}
	if got := list(t, id); !slices.Equal(got, want) {
		t.Errorf("the image holds\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// list returns the container's files and empty folders, without those that Docker adds to
// every container.
func list(t *testing.T, id string) []string {
	t.Helper()
	export := exec.Command(dockerClient, "export", id)
	out, err := export.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := export.Start(); err != nil {
		t.Fatal(err)
	}
	defer export.Wait()
	var names []string
	for r := tar.NewReader(out); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if dockerAdds(h.Name) {
			continue
		}
		name := fmt.Sprintf("%s %o %d", h.Name, h.Mode&0o7777, h.Uid)
		if h.Typeflag == tar.TypeSymlink {
			name = h.Name + " -> " + h.Linkname
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.DeleteFunc(names, func(name string) bool {
		folder, _, _ := strings.Cut(name, " ")
		return strings.HasSuffix(folder, "/") && slices.ContainsFunc(names, func(other string) bool {
			return other != name && strings.HasPrefix(other, folder)
		})
	})
}

func dockerAdds(name string) bool {
	return slices.ContainsFunc([]string{".dockerenv", "dev/", "proc/", "sys/", "etc/hostname", "etc/hosts", "etc/mtab", "etc/resolv.conf"},
		func(added string) bool {
			return name == added || strings.HasSuffix(added, "/") && strings.HasPrefix(name, added)
		})
}
