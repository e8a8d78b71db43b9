package e2e

import (
	"net/netip"
	"strings"
	"testing"

	"subnetrouter/internal/tailnettest"
)

// TestVerifyByAPI: `router verify --api` waits outside the tailnet until the routes of a router are
// approved, with an OAuth client or with its access token.
func TestVerifyByAPI(t *testing.T) {
	w := newWorld(t, worldOptions{})
	control, ours := w.testControl()
	if !ours {
		t.Skip("only tailnettest's control server has Tailscale's API")
	}
	if err := control.SetPolicy(t.Context(), tailnettest.Policy{}); err != nil {
		t.Fatal(err)
	}
	reader, minter := tailnettest.NewOAuthClient(tag), tailnettest.NewOAuthClient(tag)
	reader.NoKeys, reader.DevicesRead, reader.RoutesRead = true, true, true
	if err := control.SetAPI(t.Context(), tailnettest.API{Clients: []tailnettest.OAuthClient{reader, minter}}); err != nil {
		t.Fatal(err)
	}
	r := w.startRouter(routerOptions{})
	c := w.startClient()
	verify := func(client tailnettest.OAuthClient, timeout string) (string, int) {
		return c.sh("env", "TS_AUTHKEY="+client.Secret, "ROUTER_API_URL="+control.ControlURL(), binary("router"), "verify", "--api", "edge-router", "--timeout", timeout)
	}
	w.await("the router's routes", func(nodes []tailnettest.Node) bool {
		n, ok := tailnettest.Find(nodes, "edge-router")
		return ok && n.Online && len(n.Advertised) > 0
	})
	if out, code := verify(reader, "1s"); code != 1 || !strings.Contains(out, " of edge-router is not approved") {
		t.Errorf("without approval: exit %d: %s", code, out)
	}
	if out, code := verify(minter, "60s"); code != 1 || !strings.Contains(out, "scopes devices:core:read and devices:routes:read") {
		t.Errorf("without the scopes: exit %d: %s", code, out)
	}
	if err := control.SetPolicy(t.Context(), tailnettest.Policy{AutoApprovers: map[string][]netip.Prefix{tag: approvedRanges}}); err != nil {
		t.Fatal(err)
	}
	out, code := verify(reader, "60s")
	if code != 0 || !strings.Contains(out, "approved for edge-router: 10.0.0.0/16") {
		t.Errorf("approved: exit %d: %s", code, out)
	}
	r.stop()
	if out, code := verify(reader, "1s"); code != 1 || strings.Contains(out, reader.Secret) {
		t.Errorf("after the router has left: exit %d: %s", code, out)
	}
}
