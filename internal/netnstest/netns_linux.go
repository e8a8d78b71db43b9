// Package netnstest builds isolated networks of namespaces on one machine for tests: hosts,
// switches that connect them, and wires with a delay and loss. It needs root and iproute2.
package netnstest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Require skips the test where namespaces cannot be made; with CI=true it fails.
func Require(t testing.TB) {
	t.Helper()
	why := ""
	if os.Geteuid() != 0 {
		why = "network namespaces need root"
	} else if _, err := exec.LookPath("ip"); err != nil {
		why = "network namespaces need iproute2's ip"
	}
	if why == "" {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// Network is a set of namespaces that are removed at the end of the test.
type Network struct {
	t      testing.TB
	prefix string
	links  int
}

// New returns an empty network. The names of its namespaces begin with a prefix of this
// process, so that concurrent test processes do not conflict.
func New(t testing.TB) *Network {
	t.Helper()
	Require(t)
	return &Network{t: t, prefix: fmt.Sprintf("sr%d-", os.Getpid())}
}

// Host is one namespace. Only loopback is up in a new one.
type Host struct {
	t    testing.TB
	Name string // the test's name for it
	ns   string // the name of the namespace
}

// Host adds a namespace.
func (n *Network) Host(name string) *Host {
	n.t.Helper()
	h := &Host{t: n.t, Name: name, ns: n.prefix + name}
	ip(n.t, "netns", "add", h.ns)
	n.t.Cleanup(func() { exec.Command("ip", "netns", "delete", h.ns).Run() })
	h.IP("link", "set", "lo", "up")
	// Otherwise a new IPv6 address cannot be used for its first seconds.
	h.Sysctl("net.ipv6.conf.default.accept_dad", "0")
	return h
}

// Self returns the namespace of this process, which [Main] created.
func (n *Network) Self() *Host {
	n.t.Helper()
	if os.Getenv(inside) == "" {
		n.t.Fatal("this process has no namespace of its own: TestMain must call netnstest.Main")
	}
	return &Host{t: n.t, Name: "self", ns: selfName()}
}

// Switch is a bridge in a separate namespace.
type Switch struct {
	n    *Network
	host *Host
}

// Switch adds an Ethernet segment.
func (n *Network) Switch(name string) *Switch {
	n.t.Helper()
	s := &Switch{n: n, host: n.Host(name)}
	s.host.IP("link", "add", "br0", "type", "bridge")
	s.host.IP("link", "set", "br0", "up")
	// Where Docker runs, bridges pass packets through iptables, unlike a real network. It
	// takes a seventh of the CPU of a router that sends small packets.
	for _, filter := range []string{"iptables", "ip6tables", "arptables"} {
		err := s.host.sysctl("net.bridge.bridge-nf-call-"+filter, "0")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			n.t.Fatalf("%s: keeping %s off the bridge: %v", name, filter, err)
		}
	}
	return s
}

// Plug connects a host with the switch through an interface of the given name
// and addresses (CIDR).
func (s *Switch) Plug(h *Host, ifname string, addresses ...string) {
	h.t.Helper()
	port := s.newPort()
	ip(h.t, "link", "add", port, "netns", s.host.ns, "type", "veth", "peer", "name", ifname, "netns", h.ns)
	s.removeAtEnd(h, ifname)
	s.enable(port)
	h.configure(ifname, addresses)
}

// newPort returns a name for the next interface of the switch.
func (s *Switch) newPort() string {
	s.n.links++
	return fmt.Sprintf("p%d", s.n.links)
}

// removeAtEnd removes an interface when the test ends: a deleted namespace may keep its
// links for a while, and [Network.Self] outlives the test.
func (s *Switch) removeAtEnd(h *Host, ifname string) {
	s.n.t.Cleanup(func() { exec.Command("ip", "-n", h.ns, "link", "delete", ifname).Run() })
}

// enable connects a port with the segment.
func (s *Switch) enable(port string) {
	s.host.IP("link", "set", port, "master", "br0", "up")
}

// configure gives an interface its addresses and sets it up.
func (h *Host) configure(ifname string, addresses []string) {
	h.t.Helper()
	for _, a := range addresses {
		h.Address(ifname, a)
	}
	h.IP("link", "set", ifname, "up")
}

// Address adds an address (CIDR) to an interface.
func (h *Host) Address(ifname, address string) {
	h.t.Helper()
	args := []string{"address", "add", address, "dev", ifname}
	if p, err := netip.ParsePrefix(address); err == nil && p.Addr().Is6() {
		args = append(args, "nodad")
	}
	h.IP(args...)
}

// IP runs iproute2's ip in the host.
func (h *Host) IP(args ...string) {
	h.t.Helper()
	ip(h.t, append([]string{"-n", h.ns}, args...)...)
}

// Sysctl sets a kernel parameter of the host.
func (h *Host) Sysctl(name, value string) {
	h.t.Helper()
	if err := h.sysctl(name, value); err != nil {
		h.t.Fatalf("%s: setting %s=%s: %v", h.Name, name, value, err)
	}
}

func (h *Host) sysctl(name, value string) error {
	path := filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/"))
	return h.Do(func() error { return os.WriteFile(path, []byte(value), 0) })
}

func ip(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// Command returns a command that runs in the host.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", h.ns, name}, args...)...)
}

// Do calls f on a thread that lives in the host's namespace. Sockets that f
// opens on its own goroutine stay there for good.
func (h *Host) Do(f func() error) error {
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine, and no other
		// goroutine ever finds itself in the wrong namespace.
		runtime.LockOSThread()
		done <- h.enter(f)
	}()
	return <-done
}

func (h *Host) enter(f func() error) error {
	ns, err := os.Open(filepath.Join("/run/netns", h.ns))
	if err != nil {
		return fmt.Errorf("opening namespace: %w", err)
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("entering namespace %s: %w", h.ns, err)
	}
	return f()
}

// Dial connects from the host; address must contain an IP address.
func (h *Host) Dial(ctx context.Context, network, address string) (c net.Conn, err error) {
	err = h.Do(func() error {
		var d net.Dialer
		c, err = d.DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// Listen listens in the host, like net.Listen.
func (h *Host) Listen(network, address string) (ln net.Listener, err error) {
	err = h.Do(func() error {
		ln, err = net.Listen(network, address)
		return err
	})
	return ln, err
}

// ListenPacket listens in the host, like net.ListenPacket.
func (h *Host) ListenPacket(network, address string) (c net.PacketConn, err error) {
	err = h.Do(func() error {
		c, err = net.ListenPacket(network, address)
		return err
	})
	return c, err
}
