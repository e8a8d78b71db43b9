package tailnet

import (
	"slices"
	"syscall"
	"testing"
)

// TestMissingForKernelNamesTheCause: where a container has the device and the capability but
// not user 0, only the user is at fault, and the device's error would mislead.
func TestMissingForKernelNamesTheCause(t *testing.T) {
	const user = "the process runs as user 65532, and capabilities that are added to a container count for root only: run it as user 0"
	for name, c := range map[string]struct {
		tun            error
		capable, given bool
		uid            int
		want           []string
	}{
		"all there":                    {nil, true, true, 0, nil},
		"Fargate":                      {syscall.ENOENT, false, false, 65532, []string{"/dev/net/tun cannot be opened (no such file or directory)", "CAP_NET_ADMIN is not granted"}},
		"both given to another user":   {syscall.EACCES, false, true, 65532, []string{user}},
		"device open to all":           {nil, false, true, 65532, []string{user}},
		"only the capability is given": {syscall.ENOENT, true, true, 0, []string{"/dev/net/tun cannot be opened (no such file or directory)"}},
		"only the device is given":     {nil, false, false, 0, []string{"CAP_NET_ADMIN is not granted"}},
	} {
		if got := missingParts(c.tun, c.capable, c.given, c.uid); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
