package netfilter_test

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"subnetrouter/internal/netfilter"
	"subnetrouter/internal/netnstest"
	"subnetrouter/internal/testwait"
)

// The hosts of a test: a client and the host with the rules are in one network, the host and two targets in another,
// whose device is named as the tailnet's.
type hosts struct {
	t                           *testing.T
	client, host, first, second *netnstest.Host
}

const device = "tailscale0"

func newHosts(t *testing.T) *hosts {
	netnstest.Require(t)
	n := netnstest.New(t)
	vpc, tailnet := n.Switch("vpc"), n.Switch("tailnet")
	h := &hosts{t, n.Host("client"), n.Host("host"), n.Host("first"), n.Host("second")}
	vpc.Plug(h.client, "eth0", "10.0.1.9/24", "2001:db8::9/64")
	vpc.Plug(h.host, "eth0", "10.0.1.5/24", "2001:db8::5/64")
	tailnet.Plug(h.host, device, "100.64.0.5/24", "fd7a::5/64")
	tailnet.Plug(h.first, "eth0", "100.64.0.1/24", "fd7a::1/64")
	tailnet.Plug(h.second, "eth0", "100.64.0.2/24", "fd7a::2/64")
	for _, setting := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
		h.host.Sysctl(setting, "1")
	}
	for name, host := range map[string]*netnstest.Host{"host": h.host, "first": h.first, "second": h.second} {
		for _, port := range []string{"80", "9002"} {
			h.serve(name, host, port)
		}
	}
	return h
}

// serve answers with the host's name and the address of the sender.
func (h *hosts) serve(name string, on *netnstest.Host, port string) {
	h.t.Helper()
	ln, err := on.Listen("tcp", "[::]:"+port)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 100)
				for {
					if _, err := c.Read(buf); err != nil {
						return
					}
					fmt.Fprintf(c, "%s to %s", name, c.RemoteAddr())
				}
			}()
		}
	}()
	p, err := on.ListenPacket("udp", "[::]:"+port)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { p.Close() })
	go func() {
		buf := make([]byte, 100)
		for {
			_, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			p.WriteTo(fmt.Appendf(nil, "%s to %s", name, from), from)
		}
	}()
}

// ask exchanges a message over an open connection.
func ask(c net.Conn) (string, error) {
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Write([]byte("who?")); err != nil {
		return "", err
	}
	buf := make([]byte, 100)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

// expect asks at an address from a host, and checks the beginning of the answer. Default: by TCP and UDP.
func (h *hosts) expect(from *netnstest.Host, address, want string, networks ...string) {
	h.t.Helper()
	if networks == nil {
		networks = []string{"tcp", "udp"}
	}
	for _, network := range networks {
		c, err := from.Dial(testwait.Context(h.t), network, address)
		if err != nil {
			h.t.Errorf("%s to %s: %v", network, address, err)
			continue
		}
		if got, err := ask(c); err != nil || !strings.HasPrefix(got, want) {
			h.t.Errorf("%s to %s: %q, %v, want %q", network, address, got, err, want)
		}
		c.Close()
	}
}

func (h *hosts) set(f ...netfilter.Forward) {
	h.t.Helper()
	for _, f := range f {
		f.Device, f.FirstPort, f.LastPort, f.Except = device, 50000, 50999, []uint16{9002}
		if err := h.host.Do(func() error { return netfilter.Set(f) }); err != nil {
			h.t.Fatal(err)
		}
	}
}

func (h *hosts) clear() {
	h.t.Helper()
	if err := h.host.Do(netfilter.Clear); err != nil {
		h.t.Fatal(err)
	}
	out, err := h.host.Command(h.t.Context(), "nft", "list", "tables").CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("subnetrouter")) {
		h.t.Errorf("after Clear: %s, %v", out, err)
	}
}

func to(target, from string) netfilter.Forward {
	return netfilter.Forward{Target: netip.MustParseAddr(target), From: netip.MustParseAddr(from)}
}

// TestForward: what arrives for the host goes to the target, from the host's address in the other network; the excepted
// port, the host itself and the other network reach the host.
func TestForward(t *testing.T) {
	h := newHosts(t)
	h.clear() // of nothing
	h.set(to("100.64.0.1", "100.64.0.5"), to("fd7a::1", "fd7a::5"))
	h.expect(h.client, "10.0.1.5:80", "first to 100.64.0.5:50")
	h.expect(h.client, "[2001:db8::5]:80", "first to [fd7a::5]:50")
	for _, host := range []string{"10.0.1.5", "[2001:db8::5]"} {
		h.expect(h.client, host+":9002", "host to ")
		h.expect(h.host, host+":80", "host to ")
	}
	h.expect(h.host, "127.0.0.1:80", "host to ")
	h.expect(h.first, "100.64.0.5:80", "host to ")
	h.expect(h.first, "[fd7a::5]:80", "host to ")
	h.first.IP("route", "add", "10.0.1.0/24", "via", "100.64.0.5")
	h.expect(h.first, "10.0.1.5:80", "host to ", "tcp") // a UDP socket of all addresses answers from the nearer one
	// Another host, to which this one forwards.
	h.client.IP("route", "add", "100.64.0.0/24", "via", "10.0.1.5")
	h.second.IP("route", "add", "10.0.1.0/24", "via", "100.64.0.5")
	h.expect(h.client, "100.64.0.2:80", "second to 10.0.1.9:")
	// The rules of an earlier process go as well.
	h.clear()
	h.expect(h.client, "10.0.1.5:80", "host to ")
	h.expect(h.client, "[2001:db8::5]:80", "host to ")
}

// TestChange: with each change of the target, the next datagram of a client that keeps its port goes to the new one, and
// open connections stay where they are.
func TestChange(t *testing.T) {
	h := newHosts(t)
	dial := func(network string) net.Conn {
		t.Helper()
		c, err := h.client.Dial(testwait.Context(t), network, "10.0.1.5:80")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	expect := func(when string, c net.Conn, want string) {
		t.Helper()
		if got, err := ask(c); err != nil || !strings.HasPrefix(got, want+" to ") {
			t.Errorf("%s: %s: %q, %v, want %q", when, c.RemoteAddr().Network(), got, err, want)
		}
	}
	before, udp := dial("tcp"), dial("udp")
	expect("before the rules", before, "host")
	expect("before the rules", udp, "host")
	h.set(to("100.64.0.1", "100.64.0.5"))
	expect("with a target", before, "host")
	expect("with a target", udp, "first")
	during := dial("tcp")
	expect("with a target", during, "first")
	h.set(to("100.64.0.2", "100.64.0.5"))
	expect("with another", during, "first")
	expect("with another", udp, "second")
	end := to("100.64.0.2", "100.64.0.5")
	end.OpenOnly = true
	h.set(end)
	expect("without new flows", during, "first")
	expect("without new flows", before, "host")
	expect("without new flows", udp, "second")
	after := dial("tcp")
	expect("without new flows", after, "host")
	h.clear()
	expect("without rules", before, "host")
}

// TestSegmentSize: both ends of a connection learn the size of the smaller device, without ICMP.
func TestSegmentSize(t *testing.T) {
	h := newHosts(t)
	h.host.IP("link", "set", device, "mtu", "1280")
	h.set(to("100.64.0.1", "100.64.0.5"), to("fd7a::1", "fd7a::5"))
	for _, address := range []string{"10.0.1.5:80", "[2001:db8::5]:80"} {
		c, err := h.client.Dial(testwait.Context(t), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for name, host := range map[string]*netnstest.Host{"client": h.client, "target": h.first} {
			out, err := host.Command(t.Context(), "ss", "-tinH", "state", "established").CombinedOutput()
			// The options of TCP take 12 bytes more.
			if err != nil || !strings.Contains(string(out), " mss:1228 ") && !strings.Contains(string(out), " mss:1208 ") {
				t.Errorf("%s at the %s: %v: %s", address, name, err, out)
			}
		}
	}
}
