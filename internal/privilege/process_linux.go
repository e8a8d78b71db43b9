package privilege

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// start holds the privileges of the process before it dropped any.
var start = func() (s struct {
	permitted  Set
	uid        int
	noNewPrivs bool
}) {
	if sets, err := read(); err == nil {
		s.permitted = sets.permitted()
	}
	s.uid = os.Geteuid()
	n, _ := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	s.noNewPrivs = n == 1
	return s
}()

// given reports whether the process got capabilities although it is not root's.
func given() bool { return start.uid != 0 && start.permitted != 0 }

// Granted reports whether the process had all capabilities of c at its start, effective or not.
func Granted(c Set) bool { return start.permitted&c == c }

// Withheld reports whether the container has the capabilities c, but this process had not at its start, and
// whether the container forbids new privileges, which is the reason then.
func Withheld(c Set) (withheld, noNewPrivs bool) {
	for n := range 64 {
		if c&(1<<n) == 0 {
			continue
		}
		if v, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(n), 0, 0, 0); err != nil || v != 1 {
			return false, start.noNewPrivs
		}
	}
	return !Granted(c), start.noNewPrivs
}

// Begin undoes the effects of capabilities on a process that is not root's: the kernel keeps its files below /proc
// for root, and the Go runtime prints no stacks when it panics. Call it before anything reads the environment.
func Begin() {
	if !given() {
		return
	}
	unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0)
	// The runtime has replaced the variable.
	level, set := "", false
	text, _ := os.ReadFile("/proc/self/environ")
	for v := range bytes.SplitSeq(text, []byte{0}) {
		if value, ok := strings.CutPrefix(string(v), traceback+"="); ok {
			level, set = value, true
			break
		}
	}
	debug.SetTraceback(level)
	if set {
		os.Setenv(traceback, level)
	} else {
		os.Unsetenv(traceback)
	}
}

const traceback = "GOTRACEBACK"

// Drop drops all capabilities of a process that is not root's.
func Drop() error {
	if !given() {
		return nil
	}
	return keepOnly(0)
}

// settled is true from the end of [Settle] on.
var settled atomic.Bool

// Settle prepares the router's process, unless it is root's: it takes over dir, the state folder ("" for none),
// and in kernel mode opens the TUN device for [TakeTUN] if this user may not; it makes the capabilities effective that need
// asks for, and drops all others for good.
func Settle(need Need, dir string) (Outcome, error) {
	out := Outcome{Owner: -1}
	if !given() {
		return out, nil
	}
	defer settled.Store(true)
	device, folder := need.Kernel && closedTUN(), dir != "" && !usable(dir)
	if device || folder {
		if err := raised(start.permitted&(Chown|DACOverride), func() {
			if device {
				openTUN()
			}
			if folder {
				out.Owner, out.FolderErr = takeFolder(dir, start.uid)
			}
		}); err != nil {
			return out, err
		}
		switch {
		case !folder || out.FolderErr != nil:
		case usable(dir):
			out.Folder = dir
		default:
			out.FolderErr = fmt.Errorf("%s remains closed: a folder above it or the modes of its files exclude its owner", dir)
		}
	}
	out.Kept = need.keep(start.permitted)
	if err := keepOnly(out.Kept); err != nil {
		return out, err
	}
	out.Restart = out.Kept == 0 && !need.Kernel
	return out, nil
}

// FirstUnprivilegedPort returns the first port that listening on takes no capability.
func FirstUnprivilegedPort() int {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if err != nil {
		return 1024
	}
	n, err := strconv.Atoi(string(bytes.TrimSpace(text)))
	if err != nil {
		return 1024
	}
	return n
}

// sets has the capability sets of a thread, in the kernel's form: the low and the high words.
type sets [2]unix.CapUserData

func header() unix.CapUserHeader {
	return unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
}

func read() (s sets, err error) {
	h := header()
	err = unix.Capget(&h, &s[0])
	return s, err
}

func (s sets) permitted() Set { return Set(s[0].Permitted) | Set(s[1].Permitted)<<32 }

// limit makes keep the permitted and the effective set.
func (s *sets) limit(keep Set) {
	for i, word := range []uint32{keep.low(), keep.high()} {
		s[i].Permitted, s[i].Effective = word, word
		s[i].Inheritable &= word
	}
}

// raised calls f on a thread on which the capabilities are effective, as they are on no other. Threads that start
// meanwhile do not inherit them.
func raised(c Set, f func()) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	s, err := read()
	if err != nil {
		return fmt.Errorf("reading capabilities: %w", err)
	}
	h := header()
	before := s
	s[0].Effective |= c.low()
	s[1].Effective |= c.high()
	if err := unix.Capset(&h, &s[0]); err != nil {
		return fmt.Errorf("raising %v: %w", c, err)
	}
	f()
	if err := unix.Capset(&h, &before[0]); err != nil {
		return fmt.Errorf("lowering %v: %w", c, err)
	}
	return nil
}

// keepOnly makes keep the permitted and effective capabilities of all threads. Programs that the process starts, itself
// included, cannot get others.
func keepOnly(keep Set) error {
	s, err := read()
	if err != nil {
		return fmt.Errorf("reading capabilities: %w", err)
	}
	s.limit(keep)
	h := header()
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&h)), uintptr(unsafe.Pointer(&s[0])), 0)
	if errno == 0 {
		_, _, errno = syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
	}
	if errors.Is(errno, syscall.ENOTSUP) {
		return errors.New("dropping capabilities: impossible in a binary that is built with cgo: build it with CGO_ENABLED=0, or remove the capabilities of its file")
	}
	if errno != 0 {
		return fmt.Errorf("dropping capabilities: %w", errno)
	}
	return nil
}
