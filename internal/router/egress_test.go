package router

import (
	"fmt"
	"net"
	"testing"

	"subnetrouter/internal/routertest"
	"subnetrouter/internal/testwait"
)

// TestEgressSharesTheBudget: the buffers of connections into the tailnet are in the budget of flows.
func TestEgressSharesTheBudget(t *testing.T) {
	s := routertest.New(t)
	at := routertest.FreeAddress(t)
	s.Env["ROUTER_EGRESS"] = at + "=db:5432"
	r := start(t, s, Options{})
	if err := r.egress.Open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.egress.Close)
	const unit = 1 << 10
	reserved := int64(0)
	for r.forward.Reserve(unit) {
		reserved += unit
	}
	if reserved == 0 {
		t.Fatal("the budget is empty")
	}
	refused := func(reason string, want float64) {
		t.Helper()
		if conn, err := net.Dial("tcp", at); err == nil { // else it was reset already
			defer conn.Close()
		}
		testwait.Until(t, "the connection to be refused", func() error {
			const name = "router_egress_failures_total"
			if got := value(parseScrape(t, scrape(t, s)), name, "tcp", reason); got != want {
				return fmt.Errorf("%s is %v for %s, want %v", name, got, reason, want)
			}
			return nil
		})
	}
	refused("limited", 1)
	r.forward.Release(reserved)
	refused("not_found", 1) // there is no node db
	if got := r.status().Egress; got == nil || len(got.Targets) != 1 || got.Targets[0].Target != "db:5432" {
		t.Errorf("the status of egress is %+v", got)
	}
}
