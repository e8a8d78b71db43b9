package identity

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"subnetrouter/internal/bootstrap/iam"
)

var folder = &Kind{
	Syntax: "an absolute path", Help: "a folder, such as one on EFS", Example: "/var/lib/tailscale",
	Lasting: true, One: true,
	parse: func(value string) (Source, bool, error) {
		return Folder(filepath.Clean(value)), filepath.IsAbs(value), nil
	},
}

// Folder keeps the state in a file of this folder, in tailscaled's format and by its name.
type Folder string

// String implements [Source].
func (f Folder) String() string { return string(f) }
func (Folder) kind() *Kind      { return folder }

// Needs implements [Source].
func (Folder) Needs() []iam.Need { return nil }

func (f Folder) open(context.Context, Config, func(error)) (*Identity, error) {
	return &Identity{State: file(filepath.Join(string(f), stateFile))}, nil
}

func (f Folder) examine(context.Context, Config) (string, error) {
	path := file(filepath.Join(string(f), stateFile))
	text, err := path.Load()
	switch {
	case err != nil:
		return "", err
	case len(text) == 0:
		return path.String() + ": no node yet", nil
	}
	return fmt.Sprintf("%s: %d bytes", path, len(text)), nil
}

const stateFile = "tailscaled.state"

// file is the path of a state file.
type file string

// String implements [State].
func (f file) String() string { return string(f) }

// Load implements [State].
func (f file) Load() ([]byte, error) {
	text, err := os.ReadFile(string(f))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) { // Save reports the latter
		return nil, nil
	}
	return text, err
}

// Save implements [State]. The file has the old or the new text at every moment.
func (f file) Save(text []byte) (err error) {
	dir := filepath.Dir(string(f))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, stateFile+".tmp*") // with mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(tmp.Name())
		}
	}()
	_, err = tmp.Write(text)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), string(f))
}

// Dir returns the folder of a source; "" if it is of another kind.
func Dir(s Source) string {
	f, _ := s.(Folder)
	return string(f)
}
