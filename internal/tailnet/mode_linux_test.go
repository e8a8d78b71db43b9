package tailnet

import (
	"slices"
	"syscall"
	"testing"
)

// TestMissingForKernelNamesTheCause: where the container has the device and the capability but its
// user does not get them, only the reason for that is at fault, and the device's error would mislead.
func TestMissingForKernelNamesTheCause(t *testing.T) {
	const (
		forbidden = "the container has CAP_NET_ADMIN, but no-new-privileges keeps it from user 65532: remove that security option, or run the container as user 0"
		copied    = "the container has CAP_NET_ADMIN, but user 65532 gets it only from the file of the image's program, not from a copy without capabilities: run the container as user 0, or the image as it was built"
		closed    = "/dev/net/tun cannot be opened by user 65532 (permission denied): give the container CAP_DAC_OVERRIDE, or open the device to all on the host (chmod 666)"
		none      = "/dev/net/tun cannot be opened (no such file or directory)"
		incapable = "CAP_NET_ADMIN is not granted"
	)
	for name, c := range map[string]struct {
		tun                           error
		capable, withheld, noNewPrivs bool
		uid                           int
		want                          []string
	}{
		"all there, as root":             {nil, true, false, false, 0, nil},
		"all there":                      {nil, true, false, false, 65532, nil},
		"Fargate":                        {syscall.ENOENT, false, false, false, 65532, []string{none, incapable}},
		"new privileges are forbidden":   {syscall.EACCES, false, true, true, 65532, []string{forbidden}},
		"so they are, and nothing given": {syscall.ENOENT, false, false, true, 65532, []string{none, incapable}},
		"a copy of the binary":           {nil, false, true, false, 65532, []string{copied}},
		"the device is root's":           {syscall.EACCES, true, false, false, 65532, []string{closed}},
		"only the capability is given":   {syscall.ENOENT, true, false, false, 0, []string{none}},
		"only the device is given":       {nil, false, false, false, 0, []string{incapable}},
	} {
		if got := missingParts(c.tun, c.capable, c.withheld, c.noNewPrivs, c.uid); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
