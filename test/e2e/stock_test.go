package e2e

import (
	"context"
	"os"
	"syscall"
	"testing"
	"time"

	"subnetrouter/internal/netnstest"
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
	t := w.t
	t.Helper()
	socket := w.sharedDir() + "/stock.sock"
	cmd := h.Command(context.WithoutCancel(t.Context()), binary("tailscaled"),
		"--tun=userspace-networking", "--state=mem:", "--socket="+socket, "--port=41641")
	cmd.Env = append(os.Environ(), tailnettest.Env()...)
	p := start(t, "stock", cmd)
	tailscale(t, socket, "up", "--login-server="+w.control.ControlURL(), "--auth-key="+w.routerKey.Reveal(),
		"--advertise-routes=10.0.0.0/16", "--accept-dns=false", "--hostname="+name, "--timeout=30s")
	return p
}
