package tailnet

import (
	"fmt"
	"strings"
)

// Mode is how packets are forwarded.
type Mode int

const (
	// ModeAuto takes the kernel where it may, else userspace.
	ModeAuto Mode = iota
	// ModeUserspace forwards in this process; it needs no rights (Fargate).
	ModeUserspace
	// ModeKernel forwards through a TUN device and the host's network stack.
	ModeKernel
)

func (m Mode) String() string {
	switch m {
	case ModeUserspace:
		return "userspace"
	case ModeKernel:
		return "kernel"
	}
	return "auto"
}

// chooseMode settles ModeAuto, and refuses a mode that cannot work.
func chooseMode(want Mode) (got Mode, why string, err error) {
	if want == ModeUserspace {
		return ModeUserspace, "asked for", nil
	}
	missing := missingForKernel()
	switch {
	case len(missing) == 0 && want == ModeKernel:
		return ModeKernel, "asked for", nil
	case len(missing) == 0:
		return ModeKernel, "/dev/net/tun and CAP_NET_ADMIN are there", nil
	case want == ModeKernel:
		return 0, "", fmt.Errorf("choosing kernel mode: %s; give the task both, or set ROUTER_MODE=userspace",
			strings.Join(missing, " and "))
	}
	return ModeUserspace, strings.Join(missing, " and "), nil
}
