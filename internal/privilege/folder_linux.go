package privilege

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// FolderTakeable reports whether [Settle] could take over a state folder.
func FolderTakeable() bool { return given() && Granted(Chown|DACOverride) }

// usable reports whether this user, without capabilities, can use or create dir as a state folder, or fails for
// another reason than its rights.
func usable(dir string) bool {
	denied := func(path string, mode uint32) bool { return errors.Is(unix.Access(path, mode), unix.EACCES) }
	if denied(dir, unix.R_OK|unix.W_OK|unix.X_OK) {
		return false
	}
	for parent := dir; errors.Is(unix.Access(dir, unix.F_OK), unix.ENOENT) && parent != "/"; {
		parent = filepath.Dir(parent)
		if unix.Access(parent, unix.F_OK) == nil {
			return !denied(parent, unix.W_OK|unix.X_OK)
		}
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return true
	}
	defer unix.Close(fd)
	names, _ := entries(fd)
	return !slices.ContainsFunc(names, func(name string) bool {
		return ofNode(name) && denied(filepath.Join(dir, name), unix.R_OK)
	})
}

// takeFolder makes uid the owner of dir and of the files in it, or creates it, and returns the owner before (-1 for
// none). It follows no symbolic link, and leaves subfolders and files that have another name elsewhere.
func takeFolder(dir string, uid int) (owner int, err error) {
	fd, created, err := openFolder(dir)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fd)
	if created {
		return -1, nil
	}
	var folder unix.Stat_t
	if err := unix.Fstat(fd, &folder); err != nil {
		return -1, fmt.Errorf("examining %s: %w", dir, err)
	}
	names, err := entries(fd)
	if err != nil {
		return -1, fmt.Errorf("listing %s: %w", dir, err)
	}
	if i := slices.IndexFunc(names, func(name string) bool { return !ofNode(name) }); i >= 0 {
		return -1, fmt.Errorf("%s is not a folder of a node only: it has %s", dir, strconv.Quote(names[i]))
	}
	if len(names) > maxEntries {
		return -1, fmt.Errorf("%s has more than %d entries", dir, maxEntries)
	}
	for _, name := range names {
		if err := takeFile(fd, name, uid); err != nil {
			return -1, fmt.Errorf("taking over %s: %w", filepath.Join(dir, name), err)
		}
	}
	// Last, so that another start continues after a failure.
	if err := unix.Fchownat(fd, "", uid, -1, unix.AT_EMPTY_PATH); err != nil {
		return -1, fmt.Errorf("taking over %s: %w", dir, err)
	}
	return int(folder.Uid), nil
}

// takeFile makes uid the owner of a regular file that has no other name.
func takeFile(folder int, name string, uid int) error {
	fd, err := unix.Openat(folder, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var file unix.Stat_t
	if err := unix.Fstat(fd, &file); err != nil {
		return err
	}
	if file.Mode&unix.S_IFMT != unix.S_IFREG || file.Nlink > 1 || int(file.Uid) == uid {
		return nil
	}
	return unix.Fchownat(fd, "", uid, -1, unix.AT_EMPTY_PATH)
}

// openFolder opens dir, to name it only, or creates it.
func openFolder(dir string) (fd int, created bool, err error) {
	const flags = unix.O_PATH | unix.O_NOFOLLOW | unix.O_DIRECTORY | unix.O_CLOEXEC
	fd, err = unix.Open("/", flags, 0)
	path := "/"
	for name := range strings.SplitSeq(strings.Trim(dir, "/"), "/") {
		if err != nil || name == "" {
			break
		}
		parent := fd
		path = filepath.Join(path, name)
		if fd, err = unix.Openat(parent, name, flags, 0); errors.Is(err, unix.ENOENT) {
			if err = unix.Mkdirat(parent, name, 0o700); err == nil {
				created = true
				fd, err = unix.Openat(parent, name, flags, 0)
			}
		}
		unix.Close(parent)
	}
	switch {
	case errors.Is(err, unix.ENOTDIR):
		return -1, false, fmt.Errorf("%s is a symbolic link or a file, not a folder", path)
	case err != nil:
		return -1, false, fmt.Errorf("opening %s: %w", path, err)
	}
	return fd, created, nil
}

// entries returns the names in a folder that was opened to be named, at most one more than [maxEntries].
func entries(folder int) ([]string, error) {
	fd, err := unix.Openat(folder, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), ".")
	defer f.Close()
	names, err := f.Readdirnames(maxEntries + 1)
	if errors.Is(err, io.EOF) { // it is empty
		err = nil
	}
	return names, err
}
