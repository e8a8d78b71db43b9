package e2e

import (
	"bytes"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"subnetrouter/internal/netnstest"
	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"
)

// download is a slow transfer that curl makes in the background.
type download struct {
	cmd       *exec.Cmd
	out, errs bytes.Buffer
}

// startDownload takes four seconds for egressSize bytes.
func (w *world) startDownload(from *netnstest.Host, args ...string) *download {
	w.t.Helper()
	d := &download{cmd: from.Command(testwait.Context(w.t), "curl", append([]string{"-gsS", "--noproxy", "", "--limit-rate", "2M"}, args...)...)}
	d.cmd.Stdout, d.cmd.Stderr = &d.out, &d.errs
	if err := d.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	return d
}

// wait waits for the end of the transfer, and returns an error unless it is complete.
func (d *download) wait() error {
	if err := d.cmd.Wait(); err != nil {
		return fmt.Errorf("%d bytes, %w: %s", d.out.Len(), err, d.errs.String())
	}
	if got, want := sumOf(d.out.Bytes()), sumOf(testData(egressSize)); got != want {
		return fmt.Errorf("%d bytes have hash %s, want %s", d.out.Len(), got, want)
	}
	return nil
}

// serveData serves what startDownload expects, at an address behind the router.
func (w *world) serveData(address string) {
	w.t.Helper()
	ln := must(w.vpc.Listen("tcp", address))
	srv := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { rw.Write(testData(egressSize)) })}
	go srv.Serve(ln)
	w.t.Cleanup(func() { srv.Close() })
}

// TestEgressDeploy: the old task of a rolling deploy carries its connections into the tailnet to their end, while the
// new task serves new ones.
func TestEgressDeploy(t *testing.T) {
	for _, mode := range []string{"userspace", "kernel"} {
		t.Run(mode, func(t *testing.T) {
			const nextVPC = "10.0.1.6"
			w := newWorld(t, worldOptions{})
			env := map[string]string{
				"ROUTER_MODE": mode, "ROUTER_DRAIN_TIMEOUT": "60s",
				"ROUTER_SOCKS5_LISTEN": "0.0.0.0:1080", "ROUTER_HTTP_PROXY_LISTEN": "0.0.0.0:1080", "ROUTER_EGRESS": "0.0.0.0:8081=laptop:8080,0.0.0.0:5353/udp=laptop:53",
			}
			start := func(name string, host *netnstest.Host) *router {
				own := maps.Clone(env)
				own["ROUTER_HOSTNAME"] = name
				return w.startRouter(routerOptions{root: mode == "kernel", key: w.routerKey, host: host, env: own})
			}
			c := w.startClient()
			w.serveLaptop(w.bothAddresses("laptop"))
			old := start("old", w.routerHost)
			old.awaitReady()
			c.awaitRoute("10.0.0.0/16")
			ways := func(at string) map[string][]string {
				return map[string][]string{
					"SOCKS5":           {"--proxy", "socks5h://" + at + ":1080", "http://laptop:8080"},
					"HTTP":             {"--proxy", "http://" + at + ":1080", "http://laptop:8080"},
					"a forwarded port": {"http://" + at + ":8081"},
				}
			}
			with := func(args []string, path string) []string {
				return append(args[:len(args)-1:len(args)-1], args[len(args)-1]+path)
			}
			next := start("next", w.newRouterHost("next", "192.168.77.31", nextVPC))
			next.awaitReady()
			slow := map[string]*download{}
			for name, args := range ways(routerVPC) {
				slow[name] = w.startDownload(w.vpc, with(args, "/data")...)
			}
			testwait.Until(t, "the downloads", func() error {
				if n := old.metric("router_egress_connections"); n != float64(len(slow)) {
					return fmt.Errorf("%v connections", n)
				}
				return nil
			})

			old.cmd.Process.Signal(syscall.SIGTERM)
			old.awaitLog(`"msg":"draining"`)
			fetch := func(args []string) (string, error) {
				out, err := w.vpc.Command(testwait.Context(t), "curl", append([]string{"-gsS", "--max-time", "10", "--noproxy", "", "-H", "X-Mode: new"}, with(args, "/")...)...).Output()
				return string(out), err
			}
			for name, args := range ways(routerVPC) {
				if out, err := fetch(args); err == nil {
					t.Errorf("%s: the old router served a new connection: %q", name, out)
				}
			}
			for name, args := range ways(nextVPC) {
				if out, err := fetch(args); err != nil || out != "hello new" {
					t.Errorf("%s: the new router: %q, %v", name, out, err)
				}
			}
			if err := w.askVPC(t.Context(), nextVPC+":5353", nil, "question"); err != nil {
				t.Errorf("UDP: the new router: %v", err)
			}
			for name, d := range slow {
				if err := d.wait(); err != nil {
					t.Errorf("%s: a download during the drain: %v", name, err)
				}
			}
			if code := old.wait(); code != 0 {
				t.Errorf("exit code %d after SIGTERM, want 0", code)
			}
			if strings.Contains(old.out.String(), "connections into the tailnet cut") {
				t.Error("the old router cut a connection")
			}
			if code := next.stop(); code != 0 {
				t.Errorf("the new router: exit code %d after SIGTERM, want 0", code)
			}
		})
	}
}

// TestExitNodeDeploy: a client's download from the Internet goes on while its exit node drains and another router gets
// the routes. The client, which chooses its exit node itself, then chooses the other one.
func TestExitNodeDeploy(t *testing.T) {
	w := newWorld(t, worldOptions{policy: tailnettest.Policy{AutoApprovers: map[string][]netip.Prefix{tag: everything}}})
	if _, ours := w.testControl(); !ours {
		t.Skip("only the policy of tailnettest's control server approves exit nodes here")
	}
	w.withInternet("public.example")
	w.serveData(net.JoinHostPort(publicHost, "8080"))
	start := func(name string, host *netnstest.Host) *router {
		r := w.startRouter(routerOptions{key: w.routerKey, host: host, env: map[string]string{"ROUTER_HOSTNAME": name, "ROUTER_EXIT_NODE": "on", "ROUTER_DRAIN_TIMEOUT": "60s"}})
		r.awaitReady()
		return r
	}
	old := start("old", w.routerHost)
	c := w.startClient()
	c.exitBy("old", routerVPC)
	nextHost := w.newRouterHost("next", "192.168.77.31", "10.0.1.6")
	nextHost.IP("route", "add", "default", "via", gatewayVPC)
	next := start("next", nextHost)
	w.serveData(net.JoinHostPort(dbHost, "8080"))

	slow := map[string]*download{}
	for _, host := range []string{publicHost, dbHost} {
		slow[host] = w.startDownload(w.client, "http://"+host+":8080/")
	}
	testwait.Until(t, "the downloads", func() error {
		if n := old.metric(`router_flows_active{protocol="tcp"}`); n < 2 {
			return fmt.Errorf("%v flows", n)
		}
		return nil
	})
	old.cmd.Process.Signal(syscall.SIGTERM)
	old.awaitLog(`"msg":"routes handed over"`)
	for host, d := range slow {
		if err := d.wait(); err != nil {
			t.Errorf("a download from %s during the drain: %v", host, err)
		}
	}
	if code := old.wait(); code != 0 {
		t.Errorf("exit code %d after SIGTERM, want 0", code)
	}
	c.exitBy("next", "10.0.1.6")
	if code := next.stop(); code != 0 {
		t.Errorf("the new router: exit code %d after SIGTERM, want 0", code)
	}
}
