package terraform

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// plugin is a running provider. Terraform starts a provider for each phase of a command: two
// for a plan, three for an apply. One that runs as long as the test takes a third of the
// processor time of a plan. The zero value is not running.
type plugin struct {
	command *exec.Cmd
	attach  string // the value of TF_REATTACH_PROVIDERS
}

// attach starts the workspace's provider with the workspace's environment, unless it runs, and
// returns the variable that makes terraform use it.
func (w workspace) attach() string {
	w.t.Helper()
	if w.plugin.command == nil {
		if err := w.plugin.start(w.env); err != nil {
			w.t.Fatalf("starting the provider: %v", err)
		}
		w.t.Cleanup(w.plugin.stop)
	}
	return "TF_REATTACH_PROVIDERS=" + w.plugin.attach
}

func (p *plugin) start(env []string) error {
	command := exec.Command(os.Getenv(pluginVar), "-debug")
	command.Env = env
	out, err := command.StdoutPipe()
	if err != nil {
		return err
	}
	if err := command.Start(); err != nil {
		return err
	}
	p.command = command
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if _, value, ok := strings.Cut(lines.Text(), "TF_REATTACH_PROVIDERS='"); ok {
			p.attach = strings.TrimSuffix(value, "'")
			go io.Copy(io.Discard, out)
			return nil
		}
	}
	p.stop()
	return errors.New("it did not print its address")
}

// stop ends the provider; the next command starts it again.
func (p *plugin) stop() {
	if p.command != nil {
		p.command.Process.Kill()
		p.command.Wait() // returns "signal: killed"
		p.command = nil
	}
}

// offline is terraform's configuration with a mirror of providers.
func offline(mirror string) string {
	return fmt.Sprintf(`disable_checkpoint = true
provider_installation {
  filesystem_mirror {
    path    = %q
    include = ["registry.terraform.io/hashicorp/*"]
  }
}
`, mirror)
}

// unpackPlugin lets terraform unpack the provider into dir, and returns its program.
func unpackPlugin(mirror, dir string) (program string, err error) {
	settings, data := filepath.Join(dir, "terraformrc"), filepath.Join(dir, "data")
	if err := errors.Join(os.CopyFS(dir, os.DirFS("testdata/mirror")), os.WriteFile(settings, []byte(offline(mirror)), 0o644)); err != nil {
		return "", err
	}
	initialize := exec.Command("terraform", "-chdir="+dir, "init")
	initialize.Env = append(os.Environ(), "TF_CLI_CONFIG_FILE="+settings, "TF_DATA_DIR="+data)
	if out, err := initialize.CombinedOutput(); err != nil {
		return "", fmt.Errorf("unpacking the provider: %w\n%s", err, out)
	}
	found, err := filepath.Glob(filepath.Join(data, "providers/registry.terraform.io/hashicorp/aws/*/*/terraform-provider-aws_*"))
	if len(found) != 1 {
		return "", errors.Join(fmt.Errorf("terraform unpacked %d providers", len(found)), err)
	}
	return found[0], nil
}
