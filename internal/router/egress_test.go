package router

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"subnetrouter/internal/config"
	"subnetrouter/internal/problem"
	"subnetrouter/internal/routertest"
	"subnetrouter/internal/tailnet"
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

// TestAllPortsProblem: a target that was never found is a reason not to be ready; one that was found once is a warning. A router
// that stops, or forwards no ports, has neither.
func TestAllPortsProblem(t *testing.T) {
	failed := errors.New("resolving db: no such host")
	refused := fmt.Errorf("%w: operation not permitted", tailnet.ErrRulesRefused)
	found := []netip.Addr{netip.MustParseAddr("100.64.0.9"), netip.MustParseAddr("fd7a::9")}
	for _, c := range []struct {
		name     string
		host     string
		draining bool
		now      tailnet.AllPorts
		code     problem.Code // "" is no problem
		reason   bool
		want     string // in the message
		fix      string // in the fix
	}{
		{name: "not configured"},
		{name: "before the first look-up", host: "db", code: problem.Starting, reason: true, want: "*=db"},
		{name: "not found", host: "db", now: tailnet.AllPorts{Err: failed}, code: problem.EgressUnresolved, reason: true, want: "not forwarded to db of ROUTER_EGRESS: resolving db: no such host"},
		{name: "found", host: "db", now: tailnet.AllPorts{Targets: found, Once: true}},
		{name: "no longer found", host: "db", now: tailnet.AllPorts{Targets: found, Once: true, Err: failed}, code: problem.EgressUnresolved, want: "100.64.0.9 and fd7a::9: resolving db"},
		{name: "refused by the kernel", host: "db", now: tailnet.AllPorts{Err: refused}, code: problem.EgressUnresolved, reason: true, want: "not forwarded to db of ROUTER_EGRESS: the kernel refused", fix: "nftables"},
		{name: "removed, and refused", host: "db", now: tailnet.AllPorts{Once: true, Err: refused}, code: problem.EgressUnresolved, want: "not forwarded to db of ROUTER_EGRESS: the kernel refused", fix: "nftables"},
		{name: "stopping", host: "db", draining: true, now: tailnet.AllPorts{Err: failed}},
	} {
		r := &Router{cfg: config.Config{EgressAll: c.host}}
		r.draining.Store(c.draining)
		p, reason := r.allPortsProblem(c.now)
		if p == nil {
			if c.code != "" || reason {
				t.Errorf("%s: no problem, reason %t; want %s", c.name, reason, c.code)
			}
			continue
		}
		if p.Code != c.code || reason != c.reason || !strings.Contains(p.Message, c.want) || p.Code != problem.Starting && p.Fix == "" || !strings.Contains(p.Fix, c.fix) {
			t.Errorf("%s: %s %q (%q), reason %t; want %s %q, %t", c.name, p.Code, p.Message, p.Fix, reason, c.code, c.want, c.reason)
		}
	}
}
