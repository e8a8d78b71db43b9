package e2e

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"subnetrouter/internal/awstest"
	"subnetrouter/internal/netnstest"
	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"
)

// TestDNSPrograms connects by name, with the client's own MagicDNS and split DNS.
func TestDNSPrograms(t *testing.T) {
	w := newWorld(t, worldOptions{task: withResolver, zones: map[string]netip.Addr{privateZone: netip.MustParseAddr(resolverHost)}})
	w.startResolver()
	r := w.startRouter(routerOptions{env: map[string]string{"ROUTER_DNS": "on"}})
	r.awaitReady()
	c := w.startClientWith(true)
	c.awaitRoute("10.0.0.0/16")
	p := &programs{world: w, router: r, client: c, dir: w.sharedDir()}
	psql := p.servePostgres(t)
	const name = "db." + privateZone
	c.awaitName(name, dbHost)
	for _, tt := range []struct {
		want string
		args []string
	}{
		{dbHost + " ", []string{"getent", "hosts", name}},
		{dbHost + " ", []string{"getent", "ahosts", name}},
		{"hello from " + dbHost, []string{"curl", "-sS", "--max-time", "10", "http://" + name + "/"}},
		{dbHost + "\n", []string{psql, "-h", name, "-U", "postgres", "-X", "-At", "-v", "ON_ERROR_STOP=1", "-c", "select inet_server_addr()"}},
	} {
		if out, code := c.resolving(tt.args[0], tt.args[1:]...); code != 0 || !strings.HasPrefix(out, tt.want) {
			t.Errorf("%v: exit %d: %q, want %q", tt.args, code, out, tt.want)
		}
	}
	if s := r.status(); s.Flows.UDP != 0 {
		t.Errorf("%d UDP flows: the router forwarded queries", s.Flows.UDP)
	}
}

// asPrograms resolves a name as most programs do, and connects.
const asPrograms = `
import socket, sys
for family, kind, protocol, _, address in socket.getaddrinfo(sys.argv[1], 80, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG):
    print(address[0])
    socket.socket(family, kind, protocol).connect(address)
`

// TestDNSWithoutIPv6 resolves a name of a VPC with a 4via6 site, which has only AAAA records, on machines
// and in containers with less and less IPv6, and connects to it. The table in docs/operations.md
// ("Overlapping VPCs") has the results.
func TestDNSWithoutIPv6(t *testing.T) {
	const zone, site, host = "seven.example.com", "fd7a:115c:a1e0:b1a:0:7:a00:0/112", "fd7a:115c:a1e0:b1a:0:7:a00:304"
	const name, url = "db." + zone, "http://db." + zone + "/"
	needed(t, "python3")
	w := newWorld(t, worldOptions{
		policy: tailnettest.Policy{AutoApprovers: map[string][]netip.Prefix{tag: {netip.MustParsePrefix("fd7a:115c:a1e0:b1a::/64")}}},
		task:   withResolver,
		zones:  map[string]netip.Addr{zone: netip.MustParseAddr("fd7a:115c:a1e0:b1a:0:7:a00:2")},
	})
	w.startZone(zone)
	aws := must(awstest.NewServer(selfIP+":0", awstest.World{
		Secrets:    w.aws.Secrets,
		VPCs:       []awstest.VPC{{ID: "vpc-7", CIDRs: []awstest.Association{{ID: "assoc-7", Prefix: netip.MustParsePrefix("10.0.0.0/16")}}}},
		Interfaces: []awstest.Interface{{ID: "eni-7", MAC: w.routerMAC, VPCID: "vpc-7", SubnetID: "subnet-7"}},
	}))
	t.Cleanup(func() { aws.Close() })
	r := w.startRouter(routerOptions{env: map[string]string{"AWS_ENDPOINT_URL": aws.URL(), "ROUTER_SITE_ID": "7", "ROUTER_DNS": "on"}})
	r.awaitReady()
	c := w.startClientWith(true)
	c.awaitRoute(site)
	c.awaitName(name, host)

	// A container with its own network, without IPv6 as Docker's default, which asks the client's MagicDNS.
	bridge, container := w.net.Switch("bridge"), w.net.Host("container")
	bridge.Plug(w.client, "bridge", "172.17.0.1/24")
	bridge.Plug(container, "eth0", "172.17.0.2/24")
	container.IP("route", "add", "default", "via", "172.17.0.1")
	container.Sysctl("net.ipv6.conf.all.disable_ipv6", "1")
	w.client.Sysctl("net.ipv4.ip_forward", "1")

	// tailscaled without a network interface, on a machine without IPv6.
	old := w.net.Host("old")
	w.internet.Plug(old, "eth0", "192.168.77.21/24")
	old.Sysctl("net.ipv6.conf.all.disable_ipv6", "1")
	dir := t.TempDir()
	socket := filepath.Join(dir, "old.sock")
	proxy := old.Command(context.WithoutCancel(t.Context()), binary("tailscaled"), "--state=mem:", "--statedir="+dir, "--socket="+socket,
		"--tun=userspace-networking", "--socks5-server=127.0.0.1:1055", "--port=41641")
	proxy.Env = append(os.Environ(), tailnettest.Env()...)
	start(t, "proxy", proxy)
	tailscale(t, socket, "up", "--login-server="+w.control.ControlURL(), "--auth-key="+w.clientKey.Reveal(),
		"--accept-routes", "--hostname=old", "--timeout=30s")

	in := func(h *netnstest.Host) func(args ...string) (string, int) {
		return func(args ...string) (string, int) {
			cmd := h.Command(testwait.Context(t), "nsenter", append([]string{"--target", strconv.Itoa(c.cmd.Process.Pid), "--mount"}, args...)...)
			out, _ := cmd.CombinedOutput()
			return string(out), cmd.ProcessState.ExitCode()
		}
	}
	const greeting = "hello from " + dbHost
	type program struct {
		args []string
		want string // the beginning of its output; "": it fails
	}
	addrconfig := func(want string) program { return program{[]string{"python3", "-c", asPrograms, name}, want} }
	curl := func(want string, args ...string) program {
		return program{append([]string{"curl", "-sS", "--max-time", "10"}, args...), want}
	}
	getent := func(want, database string) program { return program{[]string{"getent", database, name}, want} }
	for _, tt := range []struct {
		name     string
		host     *netnstest.Host
		before   func()
		programs []program
	}{
		{"no IPv6 but the tailnet's", w.client, nil, []program{
			addrconfig(host), getent(host, "ahosts"), getent(host, "hosts"), curl(greeting, url), curl("", "-4", url),
		}},
		{"a container without IPv6", container, nil, []program{
			addrconfig(""), getent("", "ahosts"), getent(host, "hosts"), curl("", url), curl("", "http://["+host+"]/"),
		}},
		// Its proxies resolve with the machine's resolver, which has no split DNS (tailscale/tailscale#4677).
		{"a proxy without IPv6", old, nil, []program{
			curl("", "--proxy", "socks5h://127.0.0.1:1055", url), curl(greeting, "--proxy", "socks5h://127.0.0.1:1055", "http://["+host+"]/"),
			{[]string{"sh", "-c", binary("tailscale") + " --socket=" + socket + " dns query " + name + " AAAA | grep -o " + host}, host},
		}},
		{"IPv6 disabled", w.client, func() { w.client.Sysctl("net.ipv6.conf.all.disable_ipv6", "1") }, []program{
			addrconfig(""), getent("", "ahosts"), getent("", "hosts"), curl("", url), curl("", "http://["+host+"]/"),
			{[]string{"sh", "-c", "echo | " + binary("tailscale") + " --socket=" + c.socket + " nc " + name + " 80"}, ""},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.before != nil {
				tt.before()
			}
			run := in(tt.host)
			for _, p := range tt.programs {
				out, code := run(p.args...)
				if succeeds := code == 0; succeeds != (p.want != "") || !strings.HasPrefix(out, p.want) {
					t.Errorf("%q: exit %d: %q, want %q", p.args, code, out, p.want)
				}
			}
		})
	}
}
