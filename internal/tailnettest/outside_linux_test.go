package tailnettest

import (
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"subnetrouter/internal/testwait"

	"golang.org/x/sys/unix"
)

// TestNothingLeaves runs real nodes in a network namespace whose default route leads to a
// captured interface. Any IPv4 packet on it, ARP requests included, is a failure.
func TestNothingLeaves(t *testing.T) {
	const child = "TAILNETTEST_NAMESPACE"
	if os.Getenv(child) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestNothingLeaves$", "-test.v")
		cmd.Env = append(os.Environ(), child+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		}
		if os.Getuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		}
		out, err := cmd.CombinedOutput()
		if errors.Is(err, os.ErrPermission) {
			t.Skipf("needs root or user namespaces: %v", err)
		}
		if err != nil {
			t.Fatalf("in the namespace: %v\n%s", err, out)
		}
		if strings.Contains(string(out), "--- SKIP") {
			t.Skipf("in the namespace:\n%s", out)
		}
		return
	}

	wire := captureDefaultRoute(t)
	tn := start(t, Config{Policy: approving})
	join(t, tn, "client", clientKey)
	router := join(t, tn, "router", routerKey)
	router.advertise(t, vpc)
	await1(t, tn, "router", "primary and reachable", func(n Node) bool { return primaryOf(vpc)(n) && reachable(n) })
	if got := wire.capturedPackets(t); len(got) > 0 {
		t.Errorf("packets to the outside:\n%s", strings.Join(got, "\n"))
	}

	// Check that the capture works.
	conn, err := net.Dial("udp", "198.51.100.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Write([]byte("hello?"))
	wire.await(t)
}

// A wire is a packet socket.
type wire int

// captureDefaultRoute makes the default route of this namespace lead to a wire.
func captureDefaultRoute(t *testing.T) wire {
	t.Helper()
	for _, args := range []string{
		"link set lo up",
		"link add out type veth peer name wire",
		"addr add 192.0.2.2/24 dev out",
		"link set out up",
		"link set wire up",
		"neigh add 192.0.2.1 lladdr 02:00:00:00:00:01 dev out",
		"route add default via 192.0.2.1",
	} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Skipf("ip %s: %v %s", args, err, out)
		}
	}
	link, err := net.InterfaceByName("wire")
	if err != nil {
		t.Fatal(err)
	}
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in network byte order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, all)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index}); err != nil {
		t.Fatal(err)
	}
	return wire(fd)
}

// capturedPackets returns the packets since the last call. It ignores IPv6, since the
// kernel sends neighbor and router solicitations.
func (w wire) capturedPackets(t *testing.T) (packets []string) {
	t.Helper()
	frame := make([]byte, 2048)
	for {
		n, _, err := unix.Recvfrom(int(w), frame, 0)
		if errors.Is(err, unix.EAGAIN) {
			return packets
		}
		if err != nil {
			t.Fatal(err)
		}
		if n < 34 || frame[12] == 0x86 {
			continue
		}
		to := netip.AddrFrom4([4]byte(frame[30:34]))
		packets = append(packets, to.String()+": "+hex.EncodeToString(frame[12:n]))
	}
}

func (w wire) await(t *testing.T) {
	t.Helper()
	testwait.Until(t, "a packet on the wire", func() error {
		if len(w.capturedPackets(t)) == 0 {
			return errors.New("no packet was captured")
		}
		return nil
	})
}
