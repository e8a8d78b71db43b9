package tailnet

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// missingForKernel lists what kernel mode needs and this process lacks.
func missingForKernel() (missing []string) {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		missing = append(missing, fmt.Sprintf("/dev/net/tun cannot be opened (%v)", unwrapPath(err)))
	} else {
		f.Close()
	}
	if !hasCapability(unix.CAP_NET_ADMIN) {
		missing = append(missing, "CAP_NET_ADMIN is not granted")
	}
	return missing
}

func unwrapPath(err error) error {
	if p, ok := err.(*os.PathError); ok {
		return p.Err
	}
	return err
}

// hasCapability reads the effective set of the calling thread.
func hasCapability(c int) bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false
	}
	return data[c/32].Effective&(1<<(c%32)) != 0
}

// enableForwarding turns on what the kernel needs to pass packets on. In a
// container /proc/sys is often read-only and already set by the host.
func enableForwarding(log *slog.Logger) error {
	for _, path := range []string{"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"} {
		now, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			continue // no IPv6 here
		}
		if err == nil && bytes.Equal(bytes.TrimSpace(now), []byte("1")) {
			continue
		}
		if err := os.WriteFile(path, []byte("1\n"), 0); err != nil {
			name := strings.ReplaceAll(strings.TrimPrefix(path, "/proc/sys/"), "/", ".")
			log.Warn("forwarding is off in the kernel and cannot be turned on",
				"err", err, "fix", "set the sysctl "+name+"=1 for the task (systemControls), or ROUTER_MODE=userspace")
		}
	}
	return nil
}
