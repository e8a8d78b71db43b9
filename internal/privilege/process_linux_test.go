package privilege

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	user    = 65532
	noCaps  = "CapInh=0000000000000000 CapPrm=0000000000000000 CapEff=0000000000000000 NoNewPrivs="
	netOnly = "CapInh=0000000000000000 CapPrm=0000000000001000 CapEff=0000000000001000 NoNewPrivs="
)

// program builds testdata/program without cgo, as the router is built, for a user without rights.
var program = sync.OnceValues(func() (string, error) {
	dir, err := publicFolder()
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "program")
	// The program's sources decide on the result, too: go test repeats the test if a file that it opened changes.
	for _, pattern := range []string{"*.go", "testdata/program/*.go"} {
		sources, _ := filepath.Glob(pattern)
		for _, source := range sources {
			if _, err := os.ReadFile(source); err != nil {
				return "", err
			}
		}
	}
	build := exec.Command("go", "build", "-o", file, "./testdata/program")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the program: %w\n%s", err, out)
	}
	return file, nil
})

// publicFolder creates a folder that other users can enter, unlike those of [testing.T.TempDir].
func publicFolder() (string, error) {
	dir, err := os.MkdirTemp("", "privilege")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	return dir, err
}

func TestMain(m *testing.M) {
	code := m.Run()
	if file, err := program(); err == nil {
		os.RemoveAll(filepath.Dir(file))
	}
	os.Exit(code)
}

// command returns a run of the program as an unprivileged user, with the capabilities of the file.
func command(t *testing.T, file Set, args ...string) *exec.Cmd {
	t.Helper()
	if os.Geteuid() != 0 {
		skipOrFail(t, "needs root, to give a file capabilities")
	}
	original, err := program()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(original)
	if err != nil {
		t.Fatal(err)
	}
	path := original + "-" + strings.ReplaceAll(t.Name(), "/", "-")
	if err := os.WriteFile(path, text, 0o755); err != nil {
		t.Fatal(err)
	}
	if file != 0 {
		if err := unix.Setxattr(path, Attribute, file.AttributeValue(), 0); err != nil {
			skipOrFail(t, err.Error())
		}
	}
	cmd := exec.Command(path, args...)
	cmd.Env = []string{"GOTRACEBACK=single"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
	return cmd
}

type report struct {
	Threads                                           []string
	Outcome                                           Outcome
	FolderErr, Traceback                              string
	Dumpable, Granted, Withheld, Takeable, NoNewPrivs bool
	child                                             string
}

func run(t *testing.T, cmd *exec.Cmd) (r report) {
	t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s%s", cmd.Args, err, out, stderr.Bytes())
	}
	child, rest, _ := strings.Cut(string(out), "\n")
	if err := json.Unmarshal([]byte(rest), &r); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	r.child = strings.TrimSpace(child)
	return r
}

// TestProcess: all threads end with the same capabilities, and a program that the process starts, such as itself
// with the capabilities of its file, gets no others.
func TestProcess(t *testing.T) {
	if info, err := os.Stat(TUN); err == nil {
		defer func(before uint32) {
			if after, err := os.Stat(TUN); err != nil || after.Sys().(*syscall.Stat_t).Uid != before {
				t.Errorf("kernel mode has changed the owner of %s: %v", TUN, err)
			}
		}(info.Sys().(*syscall.Stat_t).Uid)
	}
	for _, c := range []struct {
		name      string
		file      Set
		args      []string
		want      string
		noNewPriv string
		restart   bool
	}{
		{"a command", OfFile, []string{"drop"}, noCaps, "1", false},
		{"userspace mode", OfFile, []string{"userspace", ""}, noCaps, "1", true},
		{"kernel mode", OfFile, []string{"kernel", ""}, netOnly, "1", false},
		{"kernel mode without the capability", OfFile &^ NetAdmin, []string{"kernel", ""}, noCaps, "1", false},
		{"a file without capabilities", 0, []string{"kernel", ""}, noCaps, "0", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := run(t, command(t, c.file, c.args...))
			if len(r.Threads) < 5 {
				t.Errorf("only %d threads", len(r.Threads))
			}
			for _, thread := range r.Threads {
				if strings.TrimSpace(thread) != c.want+c.noNewPriv {
					t.Errorf("a thread has %s\nwant %s", thread, c.want+c.noNewPriv)
				}
			}
			child := noCaps
			if c.want == netOnly { // permitted, but not effective: the program of the test makes nothing so
				child = strings.Replace(netOnly, "CapEff=0000000000001000", "CapEff=0000000000000000", 1)
			}
			if r.child != child+c.noNewPriv {
				t.Errorf("a program that it starts has %s\nwant %s", r.child, child+c.noNewPriv)
			}
			if r.Outcome.Restart != c.restart {
				t.Errorf("restart: %t", r.Outcome.Restart)
			}
			if !r.Dumpable {
				t.Error("the files below /proc/self are root's")
			}
			if r.Traceback != "single" {
				t.Errorf("GOTRACEBACK is %q", r.Traceback)
			}
			if granted := c.file&NetAdmin != 0; r.Granted != granted || r.Withheld == granted {
				t.Errorf("granted: %t, withheld: %t", r.Granted, r.Withheld)
			}
			if takeable := c.file != 0; r.Takeable != takeable {
				t.Errorf("a folder can be taken over: %t", r.Takeable)
			}
		})
	}
}

// TestCrash: a panic prints its stack, as it does in a program without capabilities.
func TestCrash(t *testing.T) {
	for _, file := range []Set{0, OfFile} {
		cmd := command(t, file, "panic")
		out, err := cmd.CombinedOutput()
		if err == nil || !bytes.Contains(out, []byte("as the test wants it")) || !bytes.Contains(out, []byte("main.main()")) {
			t.Errorf("with %v: %v\n%s", file, err, out)
		}
	}
}

// TestFolder takes over, in a process of its own, folders as a host has them.
func TestFolder(t *testing.T) {
	if os.Geteuid() != 0 {
		skipOrFail(t, "needs root, for files of several users")
	}
	type file struct {
		name string
		uid  int
		mode os.FileMode
	}
	for _, c := range []struct {
		name    string
		folder  string // in the parent, which is root's; "" is "state"
		uid     int
		mode    os.FileMode // 0: not there
		files   []file
		prepare func(t *testing.T, folder, outside string)
		caps    Set
		err     string
		owner   int // -1: not taken over
		created bool
		owners  map[string]int // after
	}{
		{name: "empty, of root", mode: 0o755, owner: 0},
		{name: "closed to others", mode: 0o700, owner: 0},
		{name: "of another user", mode: 0o755, uid: 1000, owner: 1000},
		{
			name: "with the state of the official image", mode: 0o700,
			files:  []file{{"tailscaled.state", 0, 0o600}, {"tailscaled.log.conf", 0, 0o600}, {"derpmap.cached.json", 0, 0o600}},
			owners: map[string]int{"tailscaled.state": user, "tailscaled.log.conf": user, "derpmap.cached.json": user},
		},
		{
			name: "only a file is another's", mode: 0o755, uid: user, owner: user,
			files: []file{{"tailscaled.state", 0, 0o600}}, owners: map[string]int{"tailscaled.state": user},
		},
		{name: "usable", mode: 0o755, uid: user, owner: -1, files: []file{{"tailscaled.state", user, 0o600}, {"other", 0, 0o600}}, owners: map[string]int{"other": 0}},
		{name: "open to all", mode: 0o777, owner: -1},
		{name: "not there", owner: -1, created: true},
		{name: "not there, nor its parent", folder: "a/b/c", owner: -1, created: true},
		{
			name: "with other files", mode: 0o755, owner: -1, files: []file{{"dpkg", 0, 0o644}, {"tailscaled.state", 0, 0o600}},
			err: `is not a folder of a node only: it has "dpkg"`, owners: map[string]int{"dpkg": 0, "tailscaled.state": 0},
		},
		{
			name: "a link to a folder", owner: -1, err: "is a symbolic link or a file",
			prepare: func(t *testing.T, folder, outside string) { symlink(t, filepath.Dir(outside), folder) },
		},
		{
			name: "below a link", folder: "link/state", owner: -1, err: "is a symbolic link or a file",
			prepare: func(t *testing.T, folder, outside string) {
				symlink(t, filepath.Dir(outside), filepath.Dir(folder))
				if err := os.Mkdir(folder, 0o755); err != nil {
					t.Fatal(err)
				}
			},
		},
		{
			name: "a link to a file outside", mode: 0o755,
			prepare: func(t *testing.T, folder, outside string) {
				symlink(t, outside, filepath.Join(folder, "tailscaled.log1.txt"))
			},
			owners: map[string]int{"tailscaled.log1.txt": 0},
		},
		{
			name: "the state is a link", mode: 0o755, owner: -1, err: "is a link, or has a second name",
			prepare: func(t *testing.T, folder, outside string) {
				symlink(t, outside, filepath.Join(folder, "tailscaled.state"))
			},
			owners: map[string]int{"tailscaled.state": 0},
		},
		{
			name: "the state has a second name", mode: 0o755, owner: -1, err: "is a link, or has a second name",
			prepare: func(t *testing.T, folder, outside string) {
				if err := os.Link(outside, filepath.Join(folder, "tailscaled.state")); err != nil {
					t.Fatal(err)
				}
			},
		},
		{
			name: "subfolders, of Tailnet Lock and of a file system", mode: 0o755,
			prepare: func(t *testing.T, folder, outside string) {
				for _, sub := range []string{"tka-profiles/0f/ab", "lost+found", "certs"} {
					if err := os.MkdirAll(filepath.Join(folder, sub), 0o700); err != nil {
						t.Fatal(err)
					}
				}
				write(t, filepath.Join(folder, "tka-profiles/0f/ab/AUM"), 0, 0o600)
				symlink(t, outside, filepath.Join(folder, "tka-profiles/0f/link"))
				symlink(t, filepath.Dir(outside), filepath.Join(folder, "certs/link"))
				if err := os.Link(outside, filepath.Join(folder, "certs/hard")); err != nil {
					t.Fatal(err)
				}
			},
			owners: map[string]int{"tka-profiles": user, "tka-profiles/0f": user, "tka-profiles/0f/ab": user, "tka-profiles/0f/ab/AUM": user, "certs": user, "lost+found": 0},
		},
		{
			name: "a subfolder that is too deep", mode: 0o755, owner: -1, err: "too many for a node",
			prepare: func(t *testing.T, folder, _ string) {
				if err := os.MkdirAll(filepath.Join(folder, "certs/a/b/c/d/e"), 0o755); err != nil {
					t.Fatal(err)
				}
			},
			owners: map[string]int{"certs": 0},
		},
		{name: "below a closed folder", folder: "closed/state", owner: 0, err: "remains closed", prepare: func(t *testing.T, folder, _ string) {
			if err := os.MkdirAll(folder, 0o700); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "the modes exclude its owner", mode: 0o500, owner: 0, err: "remains closed"},
		{
			name: "a file with another name outside", mode: 0o755,
			prepare: func(t *testing.T, folder, outside string) {
				if err := os.Link(outside, filepath.Join(folder, "tailscaled.log1.txt")); err != nil {
					t.Fatal(err)
				}
			},
		},
		{name: "too many files", mode: 0o755, owner: -1, err: "more than 4096 entries", prepare: func(t *testing.T, folder, _ string) {
			for i := range maxEntries + 1 {
				write(t, filepath.Join(folder, fmt.Sprintf("tailscaled.state.tmp%d", i)), 0, 0o600)
			}
		}},
		{name: "only CAP_CHOWN, open to readers", mode: 0o755, caps: Chown},
		{name: "only CAP_CHOWN, closed", mode: 0o700, caps: Chown, owner: -1, err: "permission denied"},
		{name: "no CAP_CHOWN", mode: 0o755, caps: DACOverride, owner: -1, err: "operation not permitted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			parent, err := publicFolder()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(parent) })
			outside := filepath.Join(parent, "outside", "secret")
			if err := os.Mkdir(filepath.Dir(outside), 0o755); err != nil {
				t.Fatal(err)
			}
			write(t, outside, 0, 0o600)
			folder := filepath.Join(parent, "state")
			if c.folder != "" {
				folder = filepath.Join(parent, c.folder)
			}
			if c.mode != 0 {
				if err := os.Mkdir(folder, c.mode); err != nil {
					t.Fatal(err)
				}
				if err := os.Chmod(folder, c.mode); err != nil { // past the umask
					t.Fatal(err)
				}
				for _, f := range c.files {
					write(t, filepath.Join(folder, f.name), f.uid, f.mode)
				}
			}
			if c.prepare != nil {
				c.prepare(t, folder, outside)
			}
			if c.mode != 0 {
				if err := os.Chown(folder, c.uid, c.uid); err != nil {
					t.Fatal(err)
				}
			}
			caps := c.caps
			if caps == 0 {
				caps = OfFile
			}
			r := run(t, command(t, caps, "userspace", folder))
			if c.err == "" && r.FolderErr != "" || !strings.Contains(r.FolderErr, c.err) {
				t.Errorf("error %q, want %q", r.FolderErr, c.err)
			}
			if c.err == "" { // the next start has nothing to do
				if again := run(t, command(t, caps, "userspace", folder)); again.Outcome.Folder != "" || again.FolderErr != "" {
					t.Errorf("a second start: %+v, %s", again.Outcome, again.FolderErr)
				}
			}
			taken := c.err == "" && (c.owner >= 0 || c.created)
			if r.Outcome.Owner != c.owner || (r.Outcome.Folder != "") != taken {
				t.Errorf("the outcome is %+v", r.Outcome)
			}
			if taken && owner(t, folder) != user {
				t.Errorf("the folder's owner is %d", owner(t, folder))
			}
			if c.owner < 0 && c.mode != 0 && owner(t, folder) != c.uid {
				t.Errorf("the folder's owner is %d, and was %d", owner(t, folder), c.uid)
			}
			for name, want := range c.owners {
				if got := owner(t, filepath.Join(folder, name)); got != want {
					t.Errorf("the owner of %s is %d, want %d", name, got, want)
				}
			}
			for _, path := range []string{outside, filepath.Dir(outside), parent} {
				if got := owner(t, path); got != 0 {
					t.Errorf("the owner of %s, outside of the folder, is %d", path, got)
				}
			}
		})
	}
}

// skipOrFail skips the test, or fails it in CI, which has everything.
func skipOrFail(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

func symlink(t *testing.T, to, path string) {
	t.Helper()
	if err := os.Symlink(to, path); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path string, uid int, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte("{}"), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, uid, uid); err != nil {
		t.Fatal(err)
	}
}

func owner(t *testing.T, path string) int {
	t.Helper()
	var s unix.Stat_t
	if err := unix.Lstat(path, &s); err != nil {
		t.Fatal(err)
	}
	return int(s.Uid)
}
