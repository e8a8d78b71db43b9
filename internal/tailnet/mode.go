package tailnet

import (
	"strings"

	"subnetrouter/internal/problem"
)

// Mode selects who forwards packets.
type Mode int

const (
	// ModeAuto selects userspace: see docs/decisions/0012.
	ModeAuto Mode = iota
	// ModeUserspace forwards in this process, without privileges (Fargate).
	ModeUserspace
	// ModeKernel forwards through a TUN device and the host's network stack.
	ModeKernel
)

// ParseMode returns the mode that String returns s for, or ModeAuto.
func ParseMode(s string) Mode {
	for _, m := range []Mode{ModeUserspace, ModeKernel} {
		if s == m.String() {
			return m
		}
	}
	return ModeAuto
}

func (m Mode) String() string {
	switch m {
	case ModeUserspace:
		return "userspace"
	case ModeKernel:
		return "kernel"
	default:
		return "auto"
	}
}

// ModeFor returns the mode of a node that is configured with want, and the reason; the error
// is that of [New].
func ModeFor(want Mode) (Mode, string, error) { return chooseMode(want) }

// chooseMode resolves ModeAuto, and returns an error for a mode that cannot work.
func chooseMode(want Mode) (got Mode, reason string, err error) {
	switch want {
	case ModeAuto:
		return ModeUserspace, "the default", nil
	case ModeKernel:
		if missing := missingForKernel(); len(missing) > 0 {
			return 0, "", problem.New("give the container the device /dev/net/tun and CAP_NET_ADMIN, or set ROUTER_MODE=userspace", "choosing kernel mode: %s",
				strings.Join(missing, " and "))
		}
		return ModeKernel, "asked for", nil
	default:
		return ModeUserspace, "asked for", nil
	}
}
