package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"
)

const profilesPort = "6060"

// listeningRouters starts two routers of one VPC, whose listeners are open to the VPC, and a
// client that reaches the VPC through the first. It must not reach a listener of either.
func listeningRouters(t *testing.T, mode string) (w *world, first, second *router, c *client) {
	t.Helper()
	w = newWorld(t, worldOptions{policy: tailnettest.Policy{
		Failover:      testwait.Limit(), // the first stays primary
		AutoApprovers: map[string][]netip.Prefix{tag: append(approvedRanges, netip.MustParsePrefix(via+"a00:0/104"))},
	}})
	start := func(o routerOptions) *router {
		o.key, o.root = w.routerKey, mode == "kernel"
		o.env = map[string]string{
			"ROUTER_HOSTNAME": o.env["ROUTER_HOSTNAME"], "ROUTER_DRAIN_TIMEOUT": "5s", "ROUTER_DEBUG_LISTEN": "[::]:" + profilesPort,
			"ROUTER_ROUTES": strings.Join([]string{"10.0.0.0/16", w.cidr6.String(), via + "a00:0/112"}, ","),
		}
		return w.startRouter(o)
	}
	first = start(routerOptions{env: map[string]string{"ROUTER_HOSTNAME": "first"}})
	c = w.startClient()
	first.awaitReady()
	w.awaitPrimary("first")
	c.awaitRoute("10.0.0.0/16")
	c.awaitRoute(w.cidr6.String())
	c.awaitRoute(via + "a00:0/112")
	second = start(routerOptions{env: map[string]string{"ROUTER_HOSTNAME": "second"}, host: w.newRouterHost("second", "192.168.77.31", "10.0.1.6")})
	second.awaitReady()
	// The first learns the addresses of the second from control.
	for deadline := time.Now().Add(5 * time.Second); w.reachesTCP(net.JoinHostPort("10.0.1.6", "9002")); {
		if time.Now().After(deadline) {
			t.Errorf("the listener of a peer router was reached %v after it was ready", 5*time.Second)
			break
		}
	}
	// The same ports of other hosts in the VPC stay reachable.
	for _, port := range []string{"9002", profilesPort} {
		w.serveEchoTCP(net.JoinHostPort(dbHost, port))
	}
	return w, first, second, c
}

// addressesOf returns the addresses of a router in the VPC, in every form that a client can use.
func (w *world) addressesOf(last byte) []string {
	b := w.router6.As16()
	b[15] = last
	return []string{fmt.Sprintf("10.0.1.%d", last), netip.AddrFrom16(b).String(), fmt.Sprintf("%sa00:1%02x", via, last)}
}

// TestListenersOfRouters tries to reach the status and debug listeners of both routers, and
// every other socket that they have bound, through one of them.
func TestListenersOfRouters(t *testing.T) {
	for _, mode := range []string{"userspace", "kernel"} {
		t.Run(mode, func(t *testing.T) {
			w, first, second, c := listeningRouters(t, mode)
			if code, _ := second.get("/status"); code != 200 {
				t.Fatalf("the second router answers %d to its own host", code)
			}
			for _, host := range append(w.addressesOf(5), w.addressesOf(6)...) {
				for _, path := range []string{":9002/status", ":9002/metrics", ":" + profilesPort + "/debug/pprof/"} {
					url := "http://" + net.JoinHostPort(host, "")
					url = strings.TrimSuffix(url, ":") + path
					if out, code := c.sh("curl", "-sS", "--max-time", "2", url); code == 0 {
						t.Errorf("curl %s reached the router: %.100s", url, out)
					}
				}
			}
			for _, port := range []string{"9002", profilesPort} {
				if !w.reachesTCP(net.JoinHostPort(dbHost, port)) {
					t.Errorf("port %s of another host is not reached", port)
				}
			}
			// All other bound sockets. The counter of denied packets shows the result even for
			// a socket that would not answer.
			for _, s := range first.bound() {
				for _, host := range append(w.addressesOf(5), w.addressesOf(6)...) {
					before := first.deniedPackets()
					ctx := t.Context()
					conn, err := w.client.Dial(ctx, s.network, net.JoinHostPort(host, strconv.Itoa(s.port)))
					if err == nil {
						conn.Write([]byte("hello"))
						conn.Close()
					}
					deadline := time.Now().Add(2 * time.Second)
					for first.deniedPackets() == before && time.Now().Before(deadline) {
						time.Sleep(20 * time.Millisecond)
					}
					if first.deniedPackets() == before {
						t.Errorf("%s to %s port %d, which the router has bound, is not denied", s.network, host, s.port)
					}
				}
			}
		})
	}
}

func (r *router) deniedPackets() float64 {
	_, body := r.get("/metrics")
	s := bufio.NewScanner(strings.NewReader(body))
	for s.Scan() {
		if value, ok := strings.CutPrefix(s.Text(), "router_denied_packets_total "); ok {
			f, _ := strconv.ParseFloat(value, 64)
			return f
		}
	}
	r.t.Fatal("no router_denied_packets_total in the metrics")
	return 0
}

type socket struct {
	network string
	port    int
}

// bound returns the sockets of the process that accept packets from any host, except on
// loopback: TCP listeners, and UDP sockets without a peer.
func (r *router) bound() (list []socket) {
	r.t.Helper()
	own := map[string]bool{}
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", r.cmd.Process.Pid))
	if err != nil || len(links) == 0 {
		r.t.Fatalf("reading the router's descriptors: %v", err)
	}
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil {
			own[strings.TrimSuffix(strings.TrimPrefix(to, "socket:["), "]")] = true
		}
	}
	seen := map[socket]bool{}
	for _, table := range []string{"tcp", "tcp6", "udp", "udp6"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", r.cmd.Process.Pid, table))
		if err != nil {
			r.t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			// sl local_address rem_address st … inode
			f := strings.Fields(line)
			if len(f) < 10 || !own[f[9]] {
				continue
			}
			const listening, unconnected = "0A", "07"
			if strings.HasPrefix(table, "tcp") && f[3] != listening || strings.HasPrefix(table, "udp") && f[3] != unconnected {
				continue
			}
			addr, portHex, _ := strings.Cut(f[1], ":")
			port, err := strconv.ParseUint(portHex, 16, 16)
			if err != nil {
				r.t.Fatal(err)
			}
			s := socket{strings.TrimSuffix(table, "6"), int(port)}
			if addr != "0100007F" && port != 0 && !seen[s] {
				seen[s] = true
				list = append(list, s)
			}
		}
	}
	if !seen[socket{"tcp", 9002}] || !seen[socket{"udp", 41641}] {
		r.t.Fatalf("the router has bound %v, want its HTTP listener among them", list)
	}
	return list
}

// TestUnreadableAddresses lowers the router's limit of open files, so that it cannot read
// the addresses of its host. In kernel mode, a client's connection needs no descriptor.
func TestUnreadableAddresses(t *testing.T) {
	w, first, _, _ := listeningRouters(t, "kernel")
	// A change of the host's interfaces makes the engine open its sockets again, which it
	// could not do without descriptors. IPv6 duplicate address detection takes a second.
	time.Sleep(3 * time.Second)
	limit := exec.Command("prlimit", "--pid", strconv.Itoa(first.cmd.Process.Pid), "--nofile=1:")
	if out, err := limit.CombinedOutput(); err != nil {
		t.Fatalf("prlimit: %v: %s", err, out)
	}
	// Longer than the interval between reads.
	for deadline := time.Now().Add(12 * time.Second); time.Now().Before(deadline); time.Sleep(time.Second) {
		for _, host := range []string{routerVPC, "10.0.1.6"} {
			if w.reachesTCP(net.JoinHostPort(host, "9002")) {
				t.Fatalf("%s: the listener was reached while the own addresses could not be read", host)
			}
		}
		if !w.reachesTCP(net.JoinHostPort(dbHost, "80")) {
			t.Fatal("another host is no longer reached")
		}
	}
}

// TestNewAddress adds an address to a router's host.
func TestNewAddress(t *testing.T) {
	for _, mode := range []string{"userspace", "kernel"} {
		t.Run(mode, func(t *testing.T) {
			w, first, _, _ := listeningRouters(t, mode)
			if w.reachesTCP(net.JoinHostPort("10.0.1.5", "9002")) {
				t.Error("the listener was reached at the first address")
			}
			const later = "10.0.1.77"
			w.routerHost.Address("eth1", later+"/24")
			// The router reads the kernel's reports of new addresses every 50 ms: on a
			// busy machine a connection can be faster.
			const known = time.Second
			before, added := first.deniedPackets(), time.Now()
			testwait.Until(t, "the new address to be denied", func() error {
				asked := time.Now()
				if !w.reachesTCP(net.JoinHostPort(later, "9002")) {
					return nil
				}
				if after := asked.Sub(added); after > known {
					return testwait.Stop(fmt.Errorf("the listener was reached %v after it got the address", after))
				}
				return errors.New("the listener was reached")
			})
			if first.deniedPackets() == before {
				t.Error("nothing was counted as denied")
			}
		})
	}
}
