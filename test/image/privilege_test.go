package image

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"subnetrouter/internal/testwait"
)

// TestCapabilities: the router's process has the capabilities that its configuration needs, on all threads, however
// many its container has, and starts if it has none.
func TestCapabilities(t *testing.T) {
	w := newWorld(t)
	const netBindService, netAdmin, netRaw = 1 << 10, 1 << 12, 1 << 13
	closedPing := []string{"--sysctl", "net.ipv4.ping_group_range=1 0"}
	lowPort := []string{"--sysctl", "net.ipv4.ip_unprivileged_port_start=1024", "--env", "ROUTER_LISTEN=:80"}
	kernel := func(device string) []string {
		return []string{"--device", device + ":/dev/net/tun", "--cap-add", "NET_ADMIN", "--env", "ROUTER_MODE=kernel"}
	}
	for _, c := range []struct {
		name       string
		args       []string
		want       int
		noNewPrivs string
	}{
		{"userspace mode", nil, 0, "1"},
		{"userspace mode with NET_ADMIN", []string{"--cap-add", "NET_ADMIN"}, 0, "1"},
		{"userspace mode without capabilities", []string{"--cap-drop", "ALL"}, 0, "0"},
		{"userspace mode, new privileges forbidden", []string{"--security-opt", "no-new-privileges"}, 0, "1"},
		{"kernel mode", kernel("/dev/net/tun"), netAdmin, "1"},
		{"kernel mode, a device that only root may open", kernel(tunNode(t, 0o600)), netAdmin, "1"},
		{"the same, all others dropped", append([]string{"--cap-drop", "ALL", "--cap-add", "DAC_OVERRIDE"}, kernel(tunNode(t, 0o600))...), netAdmin, "1"},
		{"kernel mode, a device that all may open, all others dropped", append([]string{"--cap-drop", "ALL"}, kernel(tunNode(t, 0o666))...), netAdmin, "1"},
		{"kernel mode, the device as a volume", []string{"--volume", "/dev/net/tun:/dev/net/tun", "--cap-add", "NET_ADMIN", "--env", "ROUTER_MODE=kernel"}, netAdmin, "1"},
		{"a reserved port", lowPort, netBindService, "1"},
		{"no ICMP sockets", closedPing, netRaw, "1"},
		{"no ICMP sockets, all dropped", append([]string{"--cap-drop", "ALL"}, closedPing...), 0, "0"},
		{"another user", []string{"--user", "1000:1000"}, 0, "1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.want == netAdmin {
				requireTUN(t)
			}
			r := w.official(t, map[string]string{"ROUTER_ROUTES": "none"}, c.args...)
			// By then it listens, and has its device.
			testwait.Until(t, "the router to join", func() error {
				if !strings.Contains(r.logs(), `"to":"Running"`) {
					return fmt.Errorf("%s", r.logs())
				}
				return nil
			})
			if strings.Contains(r.logs(), "cannot forward ping") && c.want == netRaw {
				t.Error("the capability does not open ICMP sockets")
			}
			set := fmt.Sprintf("%016x", c.want)
			for _, thread := range r.threads(t) {
				if got, want := thread, "0000000000000000 "+set+" "+set+" "+c.noNewPrivs; got != want {
					t.Errorf("a thread has %s, want %s", got, want)
				}
			}
			// A process that replaced itself in userspace mode prints its stacks like any other.
			if c.want == 0 {
				docker(t, "kill", "--signal", "QUIT", r.id)
				testwait.Until(t, "the stacks", func() error {
					if log := r.logs(); !strings.Contains(log, "goroutine 1 ") {
						return fmt.Errorf("%s", log)
					}
					return nil
				})
			}
		})
	}
}

// tunNode creates another name for the TUN device, with modes that do not depend on the machine's.
func tunNode(t *testing.T, mode uint32) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tun")
	if err := syscall.Mknod(path, syscall.S_IFCHR|mode, 10<<8|200); err != nil {
		skipOrFail(t, err.Error())
	}
	if err := os.Chmod(path, os.FileMode(mode)); err != nil { // past the umask
		t.Fatal(err)
	}
	return path
}

var capabilities = regexp.MustCompile(`(?m)^(?:CapInh|CapPrm|CapEff|NoNewPrivs):\s*(\w+)$`)

// threads returns the inheritable, permitted and effective capabilities of each thread of the container's first
// process, and whether it may get new ones.
func (c container) threads(t *testing.T) (list []string) {
	t.Helper()
	pid := c.inspect("{{.State.Pid}}")
	if pid == "0" {
		t.Fatal("the container has exited")
	}
	files, err := filepath.Glob("/proc/" + pid + "/task/*/status")
	if err != nil || len(files) == 0 {
		skipOrFail(t, "the container's processes are not on this machine")
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		var words []string
		for _, m := range capabilities.FindAllSubmatch(text, -1) {
			words = append(words, string(m[1]))
		}
		list = append(list, strings.Join(words, " "))
	}
	return list
}
