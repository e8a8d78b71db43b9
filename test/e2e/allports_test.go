package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"subnetrouter/internal/netnstest"
	"subnetrouter/internal/ops"
	"subnetrouter/internal/problem"
	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"
)

// TestAllPorts forwards all ports of the router to a node, with the engine on iptables, as on this machine, and on
// nftables, as in the image, which has no iptables.
func TestAllPorts(t *testing.T) {
	for firewall, env := range map[string]map[string]string{
		"iptables": {"ROUTER_EGRESS": "*=laptop,0.0.0.0:8081=laptop:8080", "TS_DEBUG_FIREWALL_MODE": "iptables"},
		"nftables": {"TS_TAILNET_TARGET_FQDN": "laptop", "TS_DEBUG_FIREWALL_MODE": "nftables"},
	} {
		t.Run(firewall, func(t *testing.T) { testAllPorts(t, env) })
	}
}

func testAllPorts(t *testing.T, env map[string]string) {
	w := newWorld(t, worldOptions{})
	env["TS_USERSPACE"] = "false"
	r := w.startRouter(routerOptions{root: true, env: env})
	r.awaitReason(problem.EgressUnresolved, "laptop")
	c := w.startClient()
	laptop := w.bothAddresses("laptop")
	w.serveNode("laptop", w.client, laptop)
	r.awaitReady()
	if warnings := r.status().Warnings; len(warnings) > 0 {
		t.Errorf("warnings of a router that forwards all ports: %v", warnings)
	}
	c.awaitRoute("10.0.0.0/16")
	router := w.bothAddresses("edge-router")

	hosts := []string{routerVPC, w.router6.String()}
	// UDP clients that keep their port, one with an open flow from before the rules.
	var sockets []net.Conn
	for i, host := range hosts {
		conn, err := w.vpc.Dial(t.Context(), "udp", net.JoinHostPort(host, "5000"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		sockets = append(sockets, conn)
		from := router[i].String()
		testwait.Until(t, "UDP to "+host, func() error { return exchange(conn, "laptop", from) })
	}
	reach := func(name string) {
		t.Helper()
		for i, host := range hosts {
			for _, port := range []string{"22", "5000"} {
				testwait.Until(t, "TCP to "+name+" by "+net.JoinHostPort(host, port), func() error {
					conn, err := w.vpc.Dial(testwait.Context(t), "tcp", net.JoinHostPort(host, port))
					if err != nil {
						return err
					}
					defer conn.Close()
					return exchange(conn, name, router[i].String())
				})
			}
			testwait.Until(t, "UDP to "+name+" by "+host, func() error { return exchange(sockets[i], name, router[i].String()) })
		}
	}
	reach("laptop")

	// The router's own listeners, other elements, and the loopback address.
	for i, host := range hosts {
		out, err := w.vpc.Command(t.Context(), "curl", "-gsS", "-m", "5", "http://"+net.JoinHostPort(host, "9002")+"/readyz").CombinedOutput()
		if err != nil || !strings.Contains(string(out), `"reasons"`) {
			t.Errorf("the router's listener at %s: %v: %s", host, err, out)
		}
		if conn, err := r.host.Dial(t.Context(), "tcp", net.JoinHostPort([]string{"127.0.0.1", "::1"}[i], "22")); err == nil {
			conn.Close()
			t.Error("the loopback address is forwarded")
		}
	}
	if _, ok := env["ROUTER_EGRESS"]; ok {
		conn, err := w.vpc.Dial(t.Context(), "tcp", routerVPC+":8081")
		if err != nil {
			t.Fatal(err)
		}
		if err := exchange(conn, "laptop", router[0].String()); err != nil {
			t.Errorf("a port of its own: %v", err)
		}
		conn.Close()
	}
	// No client of the tailnet comes in by it.
	for _, host := range append(w.addressesOf(5)[:2], router[0].String(), router[1].String()) {
		for _, port := range []string{"22", "5000"} {
			if w.reachesTCP(net.JoinHostPort(host, port)) {
				t.Errorf("a client of the tailnet reached %s:%s", host, port)
			}
		}
	}

	// The name gets other addresses.
	if err := w.control.DeleteNode(t.Context(), "laptop"); err != nil {
		t.Fatal(err)
	}
	testwait.Until(t, "the warning that there is no node laptop any more", func() error {
		s := r.status()
		if len(s.Reasons) > 0 {
			return testwait.Stop(fmt.Errorf("the router is not ready: %v", s.Reasons))
		}
		if !slices.ContainsFunc(s.Warnings, func(w ops.Reason) bool { return w.Code == problem.EgressUnresolved }) {
			return fmt.Errorf("warnings: %v", s.Warnings)
		}
		return nil
	})
	desktop, _ := w.startDesktop("laptop")
	w.serveNode("desktop", desktop, w.bothAddresses("laptop"))
	reach("desktop")

	if tables := r.tables(); !strings.Contains(tables, "ip subnetrouter") || !strings.Contains(tables, "ip6 subnetrouter") {
		t.Errorf("the tables are: %s", tables)
	}
	if _, ok := env["ROUTER_EGRESS"]; ok {
		w.drainAllPorts(r, router[0].String())
		if tables := r.tables(); strings.Contains(tables, "subnetrouter") {
			t.Errorf("after the exit the tables are: %s", tables)
		}
		return
	}
	// After a crash they stay until the next start, also if that one forwards nothing.
	r.cmd.Process.Signal(syscall.SIGKILL)
	r.wait()
	if tables := r.tables(); !strings.Contains(tables, "subnetrouter") {
		t.Errorf("after a crash the tables are: %s", tables)
	}
	next := w.startRouter(routerOptions{root: true})
	next.awaitReady()
	if tables := next.tables(); strings.Contains(tables, "subnetrouter") {
		t.Errorf("after a restart without the setting the tables are: %s", tables)
	}
	next.stop()

	// The second signal does not wait for the drain, which withdraws routes.
	hasty := w.startRouter(routerOptions{root: true, env: env})
	testwait.Until(t, "the rules", func() error {
		if tables := hasty.tables(); !strings.Contains(tables, "ip subnetrouter") {
			return fmt.Errorf("the tables are: %s", tables)
		}
		return nil
	})
	hasty.cmd.Process.Signal(syscall.SIGTERM)
	hasty.awaitLog(`"msg":"draining"`)
	hasty.cmd.Process.Signal(syscall.SIGTERM)
	if code := hasty.wait(); code == 0 {
		t.Error("exit code 0 after the second signal")
	}
	if tables := hasty.tables(); strings.Contains(tables, "subnetrouter") {
		t.Errorf("after the second signal the tables are: %s", tables)
	}
}

// drainAllPorts stops a router: open connections continue during its drain, and new ones are refused.
func (w *world) drainAllPorts(r *router, from string) {
	t := w.t
	t.Helper()
	open := map[string]net.Conn{}
	for _, port := range []string{"22", "8081"} {
		conn, err := w.vpc.Dial(t.Context(), "tcp", net.JoinHostPort(routerVPC, port))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := exchange(conn, "desktop", from); err != nil {
			t.Fatal(err)
		}
		open[port] = conn
	}
	r.cmd.Process.Signal(syscall.SIGTERM)
	r.awaitLog(`"msg":"draining"`)
	// The drain waits for the connection at the listener.
	testwait.Until(t, "new connections to be refused", func() error {
		conn, err := w.vpc.Dial(t.Context(), "tcp", routerVPC+":22")
		if err == nil {
			conn.Close()
			return errors.New("one was accepted")
		}
		return nil
	})
	if err := exchange(open["22"], "desktop", from); err != nil {
		t.Errorf("an open connection during the drain: %v", err)
	}
	open["8081"].Close()
	if code := r.wait(); code != 0 {
		t.Errorf("exit code %d after SIGTERM, want 0", code)
	}
}

// tables lists the tables of nftables at the router.
func (r *router) tables() string {
	r.t.Helper()
	out, err := r.host.Command(r.t.Context(), "nft", "list", "tables").CombinedOutput()
	if err != nil {
		r.t.Fatalf("nft: %v: %s", err, out)
	}
	return string(out)
}

// bothAddresses waits for the IPv4 and the IPv6 address of a node.
func (w *world) bothAddresses(name string) (addrs []netip.Addr) {
	w.t.Helper()
	w.await("the addresses of "+name, func(nodes []tailnettest.Node) bool {
		n, _ := tailnettest.Find(nodes, name)
		addrs = n.IPs
		return len(addrs) == 2 && n.Online
	})
	return addrs
}

// startDesktop starts another stock node in kernel mode, and returns its host.
func (w *world) startDesktop(hostname string) (*netnstest.Host, *process) {
	t := w.t
	t.Helper()
	host := w.net.Host("desktop")
	w.internet.Plug(host, "eth0", desktopIP+"/24")
	dir := t.TempDir()
	socket := filepath.Join(dir, "desktop.sock")
	cmd := host.Command(context.WithoutCancel(t.Context()), binary("tailscaled"), "--statedir="+dir, "--socket="+socket, "--tun=tailscale0", "--port=41641")
	cmd.Env = append(os.Environ(), tailnettest.Env()...)
	p := start(t, "desktop", cmd)
	tailscale(t, socket, "up", "--login-server="+w.control.ControlURL(), "--auth-key="+w.clientKey.Reveal(), "--accept-dns=false", "--hostname="+hostname, "--timeout=30s")
	return host, p
}

const desktopIP = "192.168.77.21"

// serveNode answers with a name and the sender's address, on some ports of a node.
func (w *world) serveNode(name string, on *netnstest.Host, addrs []netip.Addr) {
	w.t.Helper()
	for _, a := range addrs {
		for _, port := range []uint16{22, 5000, 8080} {
			at := netip.AddrPortFrom(a, port).String()
			ln := must(on.Listen("tcp", at))
			w.t.Cleanup(func() { ln.Close() })
			go func() {
				for {
					conn, err := ln.Accept()
					if err != nil {
						return
					}
					go func() {
						defer conn.Close()
						for buf := make([]byte, 100); ; {
							if _, err := conn.Read(buf); err != nil {
								return
							}
							fmt.Fprintf(conn, "%s %s", name, conn.RemoteAddr())
						}
					}()
				}
			}()
			p := must(on.ListenPacket("udp", at))
			w.t.Cleanup(func() { p.Close() })
			go func() {
				for buf := make([]byte, 100); ; {
					_, from, err := p.ReadFrom(buf)
					if err != nil {
						return
					}
					p.WriteTo(fmt.Appendf(nil, "%s %s", name, from), from)
				}
			}()
		}
	}
}

// exchange sends a message to a server of serveNode, and checks its name and the address that it saw.
func exchange(conn net.Conn, name, from string) error {
	conn.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := io.WriteString(conn, "who?"); err != nil {
		return err
	}
	buf := make([]byte, 100)
	n, err := conn.Read(buf)
	if err != nil {
		return err
	}
	got, saw, _ := strings.Cut(string(buf[:n]), " ")
	if host, _, _ := net.SplitHostPort(saw); got != name || host != from {
		return fmt.Errorf("answered by %s, which sees %s; want %s, and %s", got, saw, name, from)
	}
	return nil
}
