package e2e

import (
	"context"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"subnetrouter/internal/netnstest"
	"subnetrouter/internal/secret"
	"subnetrouter/internal/tailnettest"
)

// TestStockDeploy repeats TestRollingDeploy and TestCrash with tailscaled, and logs the
// results of its clients: STOCK=1 go test -run StockDeploy -v ./test/e2e
func TestStockDeploy(t *testing.T) {
	if os.Getenv("STOCK") == "" {
		t.Skip("a measurement of another program: set STOCK=1")
	}
	for _, tt := range []struct {
		name   string
		signal syscall.Signal
	}{{"SIGTERM", syscall.SIGTERM}, {"SIGKILL", syscall.SIGKILL}} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, worldOptions{policy: tailnettest.Policy{Failover: time.Second}})
			w.serveEchoTCP(dbHost + ":" + echoPort)
			old := w.startStock("old", w.routerHost)
			c := w.startClient()
			w.awaitPrimary("old")
			c.awaitRoute("10.0.0.0/16")
			w.startStock("next", w.newRouterHost("next", "192.168.77.31", "10.0.1.6"))
			w.await("the next router to be approved", func(nodes []tailnettest.Node) bool {
				n, ok := tailnettest.Find(nodes, "next")
				return ok && len(n.Approved) > 0 && n.HomeDERP != 0
			})
			l := w.startLoad(manyFlows, 45*time.Second)
			l.window(2 * time.Second)
			old.cmd.Process.Signal(tt.signal)
			w.awaitPrimary("next")
			l.awaitCut(t)
			l.window(time.Second)
			l.cutShort()
			n, slowest := l.cut()
			t.Logf("stock, %s: connections: %v", tt.name, &l.connections)
			t.Logf("stock, %s: requests of %v: %v", tt.name, requestTime, &l.requests)
			t.Logf("stock, %s: %d of %d flows ended, the last learned of it %v after its last answer", tt.name, n, manyFlows, slowest.Round(time.Millisecond))
		})
	}
}

// startStock starts tailscaled as the official image does on Fargate.
func (w *world) startStock(name string, h *netnstest.Host) *process {
	w.t.Helper()
	p, _ := w.startStockAs(name, h, "userspace", "", w.routerKey, "--advertise-routes=10.0.0.0/16")
	return p
}

// startStockAs starts tailscaled in a mode, with a key and further flags of `tailscale up`. A folder, if it is given, stands in
// for /etc.
func (w *world) startStockAs(name string, h *netnstest.Host, mode, etc string, key secret.String, flags ...string) (p *process, socket string) {
	t := w.t
	t.Helper()
	tun := "userspace-networking"
	if mode == "kernel" {
		tun = "tailscale0"
		h.Sysctl("net.ipv4.ip_forward", "1")
		h.Sysctl("net.ipv6.conf.all.forwarding", "1")
	}
	socket = w.sharedDir() + "/stock.sock"
	args := []string{binary("tailscaled"), "--tun=" + tun, "--state=mem:", "--statedir=" + t.TempDir(), "--socket=" + socket, "--port=41641"}
	if etc != "" { // `ip netns exec` has a mount namespace of its own
		args = append([]string{"sh", "-c", `mount --bind "$0" /etc && exec "$@"`, etc}, args...)
	}
	cmd := h.Command(context.WithoutCancel(t.Context()), args[0], args[1:]...)
	cmd.Env = append(os.Environ(), tailnettest.Env()...)
	p = start(t, "stock", cmd)
	tailscale(t, socket, append([]string{"up", "--login-server=" + w.control.ControlURL(), "--auth-key=" + key.Reveal(),
		"--accept-dns=false", "--hostname=" + name, "--timeout=30s"}, flags...)...)
	return p, socket
}

// The addresses of [world.newStockHost].
const stockIP, stockVPC = "192.168.77.35", "10.0.1.35"

// newStockHost creates a host for tailscaled that is connected as the router's is, with the key of a tag of its own:
// nothing takes it for a peer router.
func (w *world) newStockHost() (*netnstest.Host, secret.String) {
	w.t.Helper()
	return w.newRouterHost("stock", stockIP, stockVPC),
		w.createKey(tailnettest.Key{Ephemeral: true, Preauthorized: true, Tags: []string{otherTag}})
}

// compareResults compares what clients get of the router and of tailscaled in the same role. A result is "" for
// success. The router has to give everything, and tailscaled everything that is not listed in lacks.
func compareResults(t *testing.T, router, stock map[string]string, lacks ...string) {
	t.Helper()
	for what, trouble := range router {
		if trouble != "" {
			t.Errorf("the router, %s: %s", what, trouble)
		}
		trouble, tried := stock[what]
		if given := tried && trouble == ""; given == slices.Contains(lacks, what) {
			t.Errorf("tailscaled, %s: given %v, %s", what, given, trouble)
		}
	}
}
