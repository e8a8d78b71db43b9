package privilege

import (
	"errors"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// TUN is the device of kernel mode.
const TUN = "/dev/net/tun"

// tun is the device, if it was opened with a capability and [TakeTUN] has not returned it.
var tun atomic.Pointer[os.File]

// closedTUN reports whether the device is there, but not for this user.
func closedTUN() bool { return errors.Is(unix.Access(TUN, unix.R_OK|unix.W_OK), unix.EACCES) }

// tunErr is the error of openTUN.
var tunErr atomic.Pointer[error]

// openTUN opens the device. The file is not yet the device of an interface, until when it cannot be polled.
func openTUN() {
	fd, err := unix.Open(TUN, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		tunErr.Store(&err)
		return
	}
	tun.Store(os.NewFile(uintptr(fd), TUN))
}

// TUNErr returns the error with which [Settle] failed to open the device with a capability; nil if it had no need to, or no error.
func TUNErr() error {
	if err := tunErr.Load(); err != nil {
		return *err
	}
	return nil
}

// TakeTUN returns the device if [Settle] had to open it with a capability, and nil from then on. The caller closes it.
func TakeTUN() *os.File { return tun.Swap(nil) }

// OpensTUN reports whether [Settle] has opened the device, which is closed to this user, or would in
// this process's place.
func OpensTUN() bool {
	return tun.Load() != nil || !settled.Load() && given() && Granted(DACOverride) && closedTUN()
}
