package e2e

import (
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"subnetrouter/internal/browsertest"
	"subnetrouter/internal/tailnettest"
)

// picturesVar names the folder for the documentation's pictures; see `make pictures`.
const picturesVar = "PICTURES"

// TestPage checks the page in a browser while the router's route is unapproved, while it is
// approved and in use, and while the router drains.
func TestPage(t *testing.T) {
	w := newWorld(t, worldOptions{policy: tailnettest.Policy{AutoApprovers: map[string][]netip.Prefix{}}})
	control, ours := w.testControl()
	if !ours {
		t.Skip("the page does not depend on the control server")
	}
	w.serveEchoTCP(net.JoinHostPort(dbHost, "5432"))
	r := w.startRouter(routerOptions{})
	c := w.startClient()
	r.awaitReason("routes_unapproved", "10.0.0.0/16")

	laptop := browsertest.Open(t, "http://"+routerIP+":9002/", browsertest.Options{})
	phone := browsertest.Open(t, "http://"+routerIP+":9002/", browsertest.Options{Width: 360, Height: 740, Dark: true})
	both := func(what string, wanted ...string) {
		t.Helper()
		for _, p := range []*browsertest.Page{laptop, phone} {
			p.Await(what, func(text string) bool {
				for _, want := range wanted {
					if forbidden, not := strings.CutPrefix(want, "!"); strings.Contains(text, forbidden) == not {
						return false
					}
				}
				return true
			})
		}
	}
	both("an unapproved route with its fix", "edge-router", "not ready", "routes_unapproved", "awaits approval",
		`{"autoApprovers":{"routes":{"10.0.0.0/16":["tag:subnet-router"]`, "vpc-", "FARGATE")

	if err := control.Approve(t.Context(), "edge-router", w.advertised...); err != nil {
		t.Fatal(err)
	}
	c.awaitRoute("10.0.0.0/16")
	both("a ready router", "ready", "!not ready", "!awaits approval", "3 primary routes of 3", "approved, primary")

	stream := w.startStream(net.JoinHostPort(dbHost, "5432"))
	if out, code := c.sh("curl", "-fsS", "-o", "/dev/null", "http://"+dbHost+"/?bytes=3000000"); code != 0 {
		t.Fatalf("curl: %s", out)
	}
	if err := echoUDP(t.Context(), w, net.JoinHostPort(dbHost, "7"), 1000); err != nil {
		t.Fatal(err)
	}
	both("flows and a peer", "1 TCP, 1 UDP", "laptop", dbHost+":5432", "direct", clientIP, " ms", "tag:laptop", "routes advertised")
	if wide := browsertest.Evaluate[int](phone, "document.documentElement.scrollWidth"); wide > 360 {
		t.Errorf("the page is %d pixels wide on a screen of 360", wide)
	}
	if dir := os.Getenv(picturesVar); dir != "" {
		laptop.Save(filepath.Join(dir, "page.png"))
	}

	if _, _, err := stream.stop(); err != nil {
		t.Error(err)
	}
	// The drain waits as long as control does not move the route.
	if err := control.ForceRoutes(t.Context(), "edge-router", netip.MustParsePrefix("10.99.0.0/16")); err != nil {
		t.Fatal(err)
	}
	w.await("the forced route", func(nodes []tailnettest.Node) bool {
		n, ok := tailnettest.Find(nodes, "edge-router")
		return ok && len(n.Primary) == 4
	})
	r.cmd.Process.Signal(syscall.SIGTERM)
	both("a draining router", "draining", "the router is stopping", "!routes_unapproved")
	r.wait()
	both("that nobody answers", "not answering")
	for _, p := range []*browsertest.Page{laptop, phone} {
		for _, trouble := range p.Troubles() {
			if !strings.Contains(trouble, "ERR_CONNECTION") { // of the stopped router
				t.Errorf("the browser reports %s", trouble)
			}
		}
	}
}

// TestStatusPageOff sends requests from another host and from the router's own.
func TestStatusPageOff(t *testing.T) {
	w := newWorld(t, worldOptions{})
	r := w.startRouter(routerOptions{env: map[string]string{"ROUTER_STATUS_PAGE": "off"}})
	r.awaitReady()
	for path, want := range map[string]int{"/": http.StatusNotFound, "/status": http.StatusForbidden, "/readyz": http.StatusOK, "/metrics": http.StatusOK} {
		resp, err := http.Get("http://" + routerIP + ":9002" + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s from another host: HTTP %d, want %d: %s", path, resp.StatusCode, want, body)
		}
	}
	if out, code := r.run("router", "status"); code != 0 || !strings.Contains(out, "edge-router: ready") {
		t.Errorf("router status on the same host: exit %d: %s", code, out)
	}
}
