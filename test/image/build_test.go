package image

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"subnetrouter/internal/tailnettest/stock"
)

// Images are built once, under names that no other test process uses.
var (
	routerImage = fmt.Sprintf("subnetrouter-test:%d", os.Getpid())
	worldImage  = fmt.Sprintf("subnetrouter-world:%d", os.Getpid())

	buildRouter = sync.OnceValue(func() error {
		out, err := exec.Command(filepath.Join(root, "scripts/image"), routerImage).CombinedOutput()
		if err != nil {
			return fmt.Errorf("building the image: %w\n%s", err, out)
		}
		return nil
	})
	buildWorld = sync.OnceValue(importWorld)
)

func TestMain(m *testing.M) {
	code := m.Run()
	tryDocker("rmi", "--force", routerImage, worldImage, prometheusImage)
	os.Exit(code)
}

func requireRouterImage(t *testing.T) {
	t.Helper()
	requireDocker(t)
	if err := buildRouter(); err != nil {
		t.Fatal(err)
	}
}

func requireWorldImage(t *testing.T) {
	t.Helper()
	if err := buildWorld(); err != nil {
		t.Fatal(err)
	}
}

// importWorld creates an image of the world, tailscaled for its client, curl if this machine has
// it, and a folder for state.
func importWorld() error {
	dir, err := os.MkdirTemp("", "world")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "world")
	build := exec.Command("go", "build", "-trimpath", "-o", binary, "./world")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building the world: %w\n%s", err, out)
	}
	if err := stock.Build(context.Background(), root, stock.Current, dir, "tailscaled"); err != nil {
		return err
	}
	files := map[string]string{}
	if curl, err := exec.LookPath("curl"); err == nil {
		files = withLibraries("curl", curl)
	}
	files["world"], files["tailscaled"] = binary, filepath.Join(dir, "tailscaled")
	return importImage(worldImage, "/world", files)
}

var needed = regexp.MustCompile(`(?m)/\S+`)

// withLibraries returns the files that a program of this machine needs in an image.
func withLibraries(name, program string) map[string]string {
	files := map[string]string{name: program}
	libraries, _ := exec.Command("ldd", program).Output() // empty, with an error, for a static binary
	for _, lib := range needed.FindAllString(string(libraries), -1) {
		files[lib[1:]] = lib
	}
	return files
}

// importImage creates an image of files, keyed by their path in it, and /tmp.
func importImage(name, entrypoint string, files map[string]string) error {
	load := exec.Command(dockerClient, "import", "--change", fmt.Sprintf("ENTRYPOINT [%q]", entrypoint), "-", name)
	in, err := load.StdinPipe()
	if err != nil {
		return err
	}
	var log strings.Builder
	load.Stdout, load.Stderr = &log, &log
	if err := load.Start(); err != nil {
		return err
	}
	err = writeTar(in, files)
	in.Close()
	if waitErr := load.Wait(); waitErr != nil {
		return fmt.Errorf("importing %s: %w\n%s", name, waitErr, log.String())
	}
	return err
}

func writeTar(w io.Writer, files map[string]string) error {
	tw := tar.NewWriter(w)
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}); err != nil {
		return err
	}
	for name, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(b))}); err != nil {
			return err
		}
		if _, err := tw.Write(b); err != nil {
			return err
		}
	}
	return tw.Close()
}
