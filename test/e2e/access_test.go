package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"subnetrouter/internal/secret"
	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"
)

// followed bounds the time until a change of the access rules takes effect.
const followed = 10 * time.Second

// rulesAllow replaces the tailnet's access rules: every node may reach the routers, and dst
// in the VPC. Without dst, everything is allowed.
func (w *world) rulesAllow(control *tailnettest.Tailnet, failover time.Duration, dst ...string) {
	w.t.Helper()
	p := tailnettest.Policy{Failover: failover, AutoApprovers: map[string][]netip.Prefix{tag: approvedRanges, otherTag: approvedRanges}}
	if dst != nil {
		p.Rules = []tailnettest.Rule{{Src: []string{"*"}, Dst: append([]string{"100.64.0.0/10", "fd7a:115c:a1e0::/48"}, dst...)}}
	}
	if err := control.SetPolicy(w.t.Context(), p); err != nil {
		w.t.Fatal(err)
	}
}

// awaitReach waits until a new connection succeeds or fails as wanted.
func (w *world) awaitReach(name, address string, want bool, limit time.Duration) {
	w.t.Helper()
	for start := time.Now(); w.reachesTCP(address) != want; {
		if time.Since(start) > limit {
			w.t.Fatalf("%s: not within %v", name, limit)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// TestAccessRulesFollowControl removes a rule in each state of a router: new connections
// fail and open ones end. A new rule takes effect, too.
func TestAccessRulesFollowControl(t *testing.T) {
	other := func(w *world) secret.String {
		return w.createKey(tailnettest.Key{Reusable: true, Ephemeral: true, Preauthorized: true, Tags: []string{otherTag}})
	}
	for _, c := range []struct {
		name  string
		key   func(*world) secret.String
		env   map[string]string
		enter func(t *testing.T, w *world, old, next *router)
	}{
		{"serving", sameKey, nil, func(*testing.T, *world, *router, *router) {}},
		{"draining with help", sameKey, map[string]string{"ROUTER_DRAIN_TIMEOUT": "60s"}, func(t *testing.T, w *world, old, next *router) {
			old.cmd.Process.Signal(syscall.SIGTERM)
			old.awaitLog(`"msg":"routes handed over"`)
			w.awaitPrimary("next")
			// A reset is sent once, by the way that the old router knows to the client.
			testwait.Until(t, "the open connection to go by way of the next router", func() error {
				if n := next.metric(`router_handover_packets_total{direction="out"}`); n < 1 {
					return fmt.Errorf("%v packets relayed", n)
				}
				return nil
			})
		}},
		{"draining without help", other, map[string]string{"ROUTER_DRAIN_TIMEOUT": "60s"}, func(t *testing.T, w *world, old, _ *router) {
			old.cmd.Process.Signal(syscall.SIGTERM)
			old.awaitLog(`"msg":"draining"`)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, old, next := twoRouters(t, time.Second, c.env, c.key)
			control, ours := w.testControl()
			if !ours {
				t.Skip("only tailnettest's control server lets a test change the access rules")
			}
			stream := w.startStream(net.JoinHostPort(dbHost, echoPort))
			defer stream.stop()
			c.enter(t, w, old, next)
			if !w.reachesTCP(net.JoinHostPort(dbHost, "80")) {
				t.Fatal("the target is not reachable before the rule is removed")
			}
			w.rulesAllow(control, time.Second, secondHost)
			taken := time.Now()
			w.awaitReach("a rule that was taken away", net.JoinHostPort(dbHost, "80"), false, followed)
			t.Logf("new connections fail %v after the change", time.Since(taken).Round(time.Millisecond))
			select {
			case <-stream.done:
				t.Logf("an open connection ended within %v of the change: %v", time.Since(taken).Round(time.Millisecond), stream.err)
			case <-time.After(time.Until(taken.Add(followed))):
				t.Errorf("a connection is still open %v after its rule was removed", followed)
			}
			w.rulesAllow(control, time.Second)
			w.awaitReach("a rule that was given back", net.JoinHostPort(dbHost, "80"), true, followed)
		})
	}
}

// TestAccessRulesWhileHeldBack does the same for a router that holds its routes back for
// long, because its probes fail. Control makes the client use this router all the same, for
// a route that it does not advertise.
func TestAccessRulesWhileHeldBack(t *testing.T) {
	w, old, _ := twoRouters(t, time.Second, map[string]string{"ROUTER_PROBE": net.JoinHostPort(secondHost, "80")}, sameKey)
	control, ours := w.testControl()
	if !ours {
		t.Skip("only tailnettest's control server lets a test change the access rules")
	}
	w.routerHost.IP("route", "add", "prohibit", secondHost+"/32")
	w.awaitPrimary("next")
	old.awaitLog("holding routes back")
	if err := control.ForceRoutes(t.Context(), "old", netip.MustParsePrefix("10.0.3.0/24")); err != nil {
		t.Fatal(err)
	}
	throughOld := func() bool {
		out, _ := w.client.Command(t.Context(), "curl", "-sS", "--max-time", "2", "http://"+dbHost+"/").Output()
		return strings.Contains(string(out), "to "+routerVPC)
	}
	testwait.Until(t, "the router that holds its routes back to forward packets", func() error {
		if !throughOld() {
			return errors.New("no answer through it")
		}
		return nil
	})
	stream := w.startStream(net.JoinHostPort(dbHost, echoPort))
	defer stream.stop()
	w.rulesAllow(control, time.Second, secondHost)
	taken := time.Now()
	w.awaitReach("a rule that was taken away", net.JoinHostPort(dbHost, "80"), false, followed)
	select {
	case <-stream.done:
	case <-time.After(time.Until(taken.Add(followed))):
		t.Errorf("a connection is still open %v after its rule was removed", followed)
	}
	w.rulesAllow(control, time.Second, dbHost)
	w.awaitReach("a rule that was given", net.JoinHostPort(dbHost, "80"), true, followed)
	if !throughOld() {
		t.Error("the other router forwards")
	}
}
