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
	if closed(dir, unix.R_OK|unix.W_OK|unix.X_OK) {
		return false
	}
	for parent := dir; errors.Is(unix.Access(dir, unix.F_OK), unix.ENOENT) && parent != "/"; {
		parent = filepath.Dir(parent)
		if unix.Access(parent, unix.F_OK) == nil {
			return !closed(parent, unix.W_OK|unix.X_OK)
		}
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return true
	}
	defer unix.Close(fd)
	names, _ := entries(fd)
	return !slices.ContainsFunc(names, func(name string) bool {
		if !ofNode(name) || name == lostAndFound {
			return false
		}
		path := filepath.Join(dir, name)
		var info unix.Stat_t
		if err := unix.Lstat(path, &info); err != nil {
			return false
		}
		switch isFolder := info.Mode&unix.S_IFMT == unix.S_IFDIR; {
		case isFolder:
			return closed(path, unix.R_OK|unix.W_OK|unix.X_OK)
		case name == stateFile || alone(info): // takeFolder leaves others
			return closed(path, unix.R_OK)
		}
		return false
	})
}

func closed(path string, mode uint32) bool { return errors.Is(unix.Access(path, mode), unix.EACCES) }

// takeFolder makes uid the owner of dir and of the node's files in it, or creates it, and returns the owner before (-1
// for none). It follows no symbolic link, and leaves files that have another name elsewhere, and other file systems.
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
	var state unix.Stat_t
	if err := unix.Fstatat(fd, stateFile, &state, unix.AT_SYMLINK_NOFOLLOW); err == nil && !alone(state) {
		return -1, fmt.Errorf("%s is a link, or has a second name elsewhere (hard link)", filepath.Join(dir, stateFile))
	}
	// First only a count, so that nothing changes if there are too many.
	for _, owner := range []int{-1, uid} {
		walk := walk{uid: owner, device: folder.Dev}
		if err := walk.folder(fd, dir, 0); err != nil {
			return -1, err
		}
	}
	// Last, so that another start continues after a failure.
	if err := unix.Fchownat(fd, "", uid, -1, unix.AT_EMPTY_PATH); err != nil {
		return -1, fmt.Errorf("taking over %s: %w", dir, err)
	}
	return int(folder.Uid), nil
}

// walk takes over the content of a folder.
type walk struct {
	uid    int // -1: only counts
	device uint64
	seen   int
}

// folder takes over what is in the folder.
func (w *walk) folder(fd int, path string, depth int) error {
	names, err := entries(fd)
	if err != nil {
		return fmt.Errorf("listing %s: %w", path, err)
	}
	for _, name := range names {
		if w.seen++; w.seen > maxEntries || depth > maxDepth {
			return fmt.Errorf("%s has more than %d entries, or folders deeper than %d: too many for a node", path, maxEntries, maxDepth)
		}
		if depth == 0 && name == lostAndFound {
			continue
		}
		if err := w.entry(fd, name, filepath.Join(path, name), depth); err != nil {
			return err
		}
	}
	return nil
}

// entry takes over a regular file that has no other name, or a folder with its content.
func (w *walk) entry(parent int, name, path string, depth int) error {
	fd, err := unix.Openat(parent, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("taking over %s: %w", path, err)
	}
	defer unix.Close(fd)
	var info unix.Stat_t
	if err := unix.Fstat(fd, &info); err != nil {
		return fmt.Errorf("taking over %s: %w", path, err)
	}
	isFolder := info.Mode&unix.S_IFMT == unix.S_IFDIR
	if info.Dev != w.device || !isFolder && !alone(info) {
		return nil
	}
	if isFolder {
		if err := w.folder(fd, path, depth+1); err != nil {
			return err
		}
	}
	if w.uid < 0 || int(info.Uid) == w.uid {
		return nil
	}
	if err := unix.Fchownat(fd, "", w.uid, -1, unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("taking over %s: %w", path, err)
	}
	return nil
}

// alone reports whether a file is a regular one with one name.
func alone(file unix.Stat_t) bool {
	return file.Mode&unix.S_IFMT == unix.S_IFREG && file.Nlink == 1
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
