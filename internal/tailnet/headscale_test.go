package tailnet

import (
	"context"
	"os"
	"testing"
	"time"

	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"
)

// TestOnHeadscale joins, advertises and withdraws on the Headscale at $HEADSCALE.
func TestOnHeadscale(t *testing.T) {
	program := os.Getenv("HEADSCALE")
	if program == "" {
		t.Skip("no Headscale: set HEADSCALE to the path of its program")
	}
	control, err := tailnettest.StartHeadscale(tailnettest.HeadscaleConfig{Program: program, Tags: []string{testTag}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(control.Log())
		}
		control.Close()
	})
	key, err := control.CreateKey(t.Context(), tailnettest.Key{Reusable: true, Ephemeral: true, Tags: []string{testTag}})
	if err != nil {
		t.Fatal(err)
	}
	n := startNode(t, control, give(key), nil)
	n.Advertise(testRoutes)
	ctx, cancel := context.WithTimeout(t.Context(), 2*testwait.Limit())
	defer cancel()
	if err := control.Await(ctx, "the announcement", func(nodes []tailnettest.Node) bool {
		edge, ok := tailnettest.Find(nodes, "edge")
		return ok && len(edge.Advertised) == len(testRoutes)
	}); err != nil {
		t.Fatal(err)
	}
	// Wait for the self updates that follow a start: the approval alone must be enough.
	time.Sleep(3 * time.Second)
	if s, _ := n.Status(); len(s.Unapproved()) != len(testRoutes) {
		t.Errorf("before the approval: status %+v", s)
	}
	if err := control.Approve(ctx, "edge", testRoutes...); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	awaitStatus(t, n, "the approval", serving)
	t.Logf("saw the approval after %v", time.Since(begun).Round(time.Millisecond))
	begun = time.Now()
	if err := n.Withdraw(ctx); err != nil {
		t.Error(err)
	}
	t.Logf("saw the withdrawal after %v", time.Since(begun).Round(time.Millisecond))
}
