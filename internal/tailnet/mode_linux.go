package tailnet

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// missingForKernel lists the requirements of kernel mode that this process does not meet.
func missingForKernel() (missing []string) {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err == nil {
		f.Close()
	}
	capable := hasCapability(unix.CAP_NET_ADMIN)
	// The bounding set has the capabilities that the container was given.
	bounded, _ := unix.PrctlRetInt(unix.PR_CAPBSET_READ, unix.CAP_NET_ADMIN, 0, 0, 0)
	return missingParts(unwrapPath(err), capable, bounded == 1, os.Geteuid())
}

// missingParts lists the missing requirements: tun is the error of opening the device, capable
// and given report whether the process and its container have CAP_NET_ADMIN.
func missingParts(tun error, capable, given bool, uid int) (missing []string) {
	if !capable && given && uid != 0 {
		// The device may be there and accept root only, which the same change fixes.
		return []string{fmt.Sprintf("the process runs as user %d, and capabilities that are added to a container count for root only: run it as user 0", uid)}
	}
	if tun != nil {
		missing = append(missing, fmt.Sprintf("/dev/net/tun cannot be opened (%v)", tun))
	}
	if !capable {
		missing = append(missing, "CAP_NET_ADMIN is not granted")
	}
	return missing
}

func unwrapPath(err error) error {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		return p.Err
	}
	return err
}

// hasCapability reports whether the calling thread's effective set has a capability.
func hasCapability(c int) bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false
	}
	return data[c/32].Effective&(1<<(c%32)) != 0
}

// enableForwarding enables IP forwarding in the kernel. In a container /proc/sys is often
// read-only, and set by the host already.
func enableForwarding(log *slog.Logger) error {
	for _, path := range []string{"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"} {
		now, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			continue // the kernel has no IPv6
		}
		if err == nil && bytes.Equal(bytes.TrimSpace(now), []byte("1")) {
			continue
		}
		if err := os.WriteFile(path, []byte("1\n"), 0); err != nil {
			name := strings.ReplaceAll(strings.TrimPrefix(path, "/proc/sys/"), "/", ".")
			log.Warn("IP forwarding is disabled in the kernel and cannot be enabled",
				"err", err, "fix", "set the sysctl "+name+"=1 for the task (systemControls), or ROUTER_MODE=userspace")
		}
	}
	return nil
}
