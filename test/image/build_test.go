package image

import (
	"archive/tar"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
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
	tryDocker("rmi", "--force", routerImage, worldImage)
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

// importWorld makes an image of one static binary and a folder for its state.
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
	load := exec.Command(dockerClient, "import", "--change", `ENTRYPOINT ["/world"]`, "-", worldImage)
	in, err := load.StdinPipe()
	if err != nil {
		return err
	}
	var log strings.Builder
	load.Stdout, load.Stderr = &log, &log
	if err := load.Start(); err != nil {
		return err
	}
	err = writeTar(in, binary)
	in.Close()
	if waitErr := load.Wait(); waitErr != nil {
		return fmt.Errorf("importing the world: %w\n%s", waitErr, log.String())
	}
	return err
}

func writeTar(w io.Writer, binary string) error {
	f, err := os.Open(binary)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	tw := tar.NewWriter(w)
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}); err != nil {
		return err
	}
	if err := tw.WriteHeader(&tar.Header{Name: "world", Mode: 0o755, Size: info.Size()}); err != nil {
		return err
	}
	if _, err := io.Copy(tw, f); err != nil {
		return err
	}
	return tw.Close()
}
