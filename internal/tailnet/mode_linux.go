package tailnet

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"

	"subnetrouter/internal/privilege"
)

// missingForKernel lists the requirements of kernel mode that this process does not meet.
func missingForKernel() (missing []string) {
	f, err := os.OpenFile(privilege.TUN, os.O_RDWR, 0)
	if err == nil {
		f.Close()
	} else if privilege.OpensTUN() {
		err = nil
	} else if privileged := privilege.TUNErr(); privileged != nil {
		err = privileged
	}
	withheld, noNewPrivs := privilege.Withheld(privilege.NetAdmin)
	return missingParts(unwrapPath(err), privilege.Granted(privilege.NetAdmin), withheld, noNewPrivs, os.Geteuid())
}

// missingParts lists the missing requirements. tun is the error of opening the device; capable reports whether
// the process has CAP_NET_ADMIN, and withheld whether only its container has; noNewPrivs reports whether the
// container forbids new privileges.
func missingParts(tun error, capable, withheld, noNewPrivs bool, uid int) (missing []string) {
	// The device may be there and accept root only, which the same change fixes.
	switch {
	case withheld && noNewPrivs && uid != 0:
		return []string{fmt.Sprintf("the container has CAP_NET_ADMIN, but no-new-privileges keeps it from user %d: remove that security option, or run the container as user 0", uid)}
	case withheld && uid != 0:
		return []string{fmt.Sprintf("the container has CAP_NET_ADMIN, but user %d gets it only from the file of the image's program, not from a copy without capabilities: run the container as user 0, or the image as it was built", uid)}
	}
	switch {
	case errors.Is(tun, fs.ErrPermission) && uid != 0:
		missing = append(missing, fmt.Sprintf("/dev/net/tun cannot be opened by user %d (%v): give the container CAP_DAC_OVERRIDE, or open the device to all on the host (chmod 666)", uid, tun))
	case tun != nil:
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
