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

// openTUN opens the device. The file is not yet the device of an interface, until when it cannot be polled.
func openTUN() {
	if fd, err := unix.Open(TUN, unix.O_RDWR|unix.O_CLOEXEC, 0); err == nil { // an error shows when it is needed
		tun.Store(os.NewFile(uintptr(fd), TUN))
	}
}

// TakeTUN returns the device if [Settle] had to open it with a capability, and nil from then on. The caller closes it.
func TakeTUN() *os.File { return tun.Swap(nil) }

// OpensTUN reports whether [Settle] has opened the device, which is closed to this user, or would in
// this process's place.
func OpensTUN() bool {
	return tun.Load() != nil || !settled.Load() && given() && Granted(DACOverride) && closedTUN()
}
