package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"subnetrouter/internal/netnstest"
	"subnetrouter/internal/ops"
	"subnetrouter/internal/secret"
	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"
)

// newRouterHost creates a host for another router.
func (w *world) newRouterHost(name, internetIP, vpcIP string) *netnstest.Host {
	h := w.net.Host(name)
	b := w.router6.As16()
	b[15] = netip.MustParseAddr(vpcIP).As4()[3]
	w.plugRouter(h, internetIP, vpcIP, netip.AddrFrom16(b))
	return h
}

// awaitPrimary waits until the node is the primary router of its routes.
func (w *world) awaitPrimary(name string) {
	w.t.Helper()
	w.await(name+" to be primary", func(nodes []tailnettest.Node) bool {
		n, ok := tailnettest.Find(nodes, name)
		return ok && len(n.Primary) > 0
	})
}

// twoRouters starts the state in the middle of a rolling deploy: the old task is primary and
// the new one is ready. E2E_OLD_ROUTER and E2E_NEXT_ROUTER name other binaries for them, to
// test an upgrade or a rollback between two versions.
func twoRouters(t *testing.T, grace time.Duration, env map[string]string, secondKey func(*world) secret.String) (w *world, old, next *router) {
	t.Helper()
	return twoRoutersIn(newWorld(t, worldOptions{policy: tailnettest.Policy{Failover: grace}}), env, secondKey)
}

func twoRoutersIn(w *world, env map[string]string, secondKey func(*world) secret.String) (_ *world, old, next *router) {
	w.t.Helper()
	w.serveEchoTCP(net.JoinHostPort(dbHost, echoPort))
	with := func(name string) map[string]string {
		out := map[string]string{"ROUTER_HOSTNAME": name, "ROUTER_DRAIN_TIMEOUT": "10s"}
		maps.Copy(out, env)
		return out
	}
	old = w.startRouter(routerOptions{key: w.routerKey, env: with("old"), program: os.Getenv("E2E_OLD_ROUTER")})
	c := w.startClient()
	old.awaitReady()
	w.awaitPrimary("old")
	c.awaitRoute("10.0.0.0/16")
	next = w.startRouter(routerOptions{
		key: secondKey(w), env: with("next"), host: w.newRouterHost("next", "192.168.77.31", "10.0.1.6"),
		program: os.Getenv("E2E_NEXT_ROUTER"),
	})
	next.awaitReady()
	return w, old, next
}

func sameKey(w *world) secret.String { return w.routerKey }

const (
	manyFlows = 200
	// noticed bounds the time until a client learns that its flow has ended.
	noticed = time.Second
)

// TestRollingDeploy stops the old task under load, as ECS does in a deploy.
func TestRollingDeploy(t *testing.T) {
	w, old, next := twoRouters(t, time.Second, nil, sameKey)
	l := w.startLoad(manyFlows, 5*time.Second)
	l.window(2 * time.Second)
	old.cmd.Process.Signal(syscall.SIGTERM)
	old.awaitLog(`"msg":"routes handed over"`)
	w.awaitPrimary("next")
	l.window(3 * time.Second) // in the middle of the drain
	if n, _ := l.cut(); n > 0 {
		t.Errorf("%d of %d flows were cut while the router drained", n, manyFlows)
	}
	// The clients end half of the flows during the drain; the router must cut the others.
	for _, s := range l.streams[:manyFlows/2] {
		s.conn.Close()
	}
	l.awaitCut(t)
	if n, slowest := l.cut(); n != manyFlows || slowest > noticed+streamEvery+l.slack() {
		t.Errorf("%d of %d flows learned of their end, the last %v after its last answer", n, manyFlows, slowest)
	} else {
		t.Logf("the last flow learned of its end %v after its last answer", slowest.Round(time.Millisecond))
	}
	if code := old.wait(); code != 0 {
		t.Errorf("the old router exited with code %d", code)
	}
	l.window(time.Second)
	l.stop()
	t.Logf("connections: %v", &l.connections)
	t.Logf("requests of %v: %v", requestTime, &l.requests)
	if l.connections.failures() > 0 || l.requests.failures() > 0 {
		t.Error("a deploy must not fail any connection or request")
	}
	if gap := l.stalled(noticed); gap > 0 {
		t.Errorf("no connection succeeded for %v; the machine: %v", gap, &l.direct)
	}
	old.hasLogged(`"msg":"draining","helpers":1`, `"msg":"flows cut","tcp":1`, `"msg":"drained"`) // a hundred, or more with those of the load
	next.hasLogged(`"msg":"peer router is draining`, `"msg":"peer router has drained"`)
}

// TestDeployFarAway stops the old task while the client is 150 ms away from the routers, and so
// takes as long for a WireGuard handshake. Its flows must continue as soon as its packets reach
// the successor: if the handshake failed, they would stall for 5 s.
func TestDeployFarAway(t *testing.T) {
	const rtt, flows = 150 * time.Millisecond, 20
	w, old, _ := twoRoutersIn(newWorld(t, worldOptions{policy: tailnettest.Policy{Failover: time.Second}, wire: &netnstest.DirectionOptions{Delay: rtt / 2}}), nil, sameKey)
	l := w.startLoad(flows, 5*time.Second)
	l.window(2 * time.Second)
	old.cmd.Process.Signal(syscall.SIGTERM)
	old.awaitLog(`"msg":"routes handed over"`)
	w.awaitPrimary("next")
	l.window(3 * time.Second)
	if n, _ := l.cut(); n > 0 {
		t.Errorf("%d of %d flows were cut while the router drained", n, flows)
	}
	l.stop()
	t.Logf("connections: %v", &l.connections)
	if l.connections.failures() > 0 || l.requests.failures() > 0 {
		t.Errorf("a deploy must not fail any connection or request: %v; %v", &l.connections, &l.requests)
	}
	if gap := l.stalled(noticed); gap > 0 {
		t.Errorf("no connection succeeded for %v; the machine: %v", gap, &l.direct)
	}
}

// TestDeployWithoutHelp stops a router whose successor has another tag, and so is not a peer
// router. Flows must end between two requests, with a reset.
func TestDeployWithoutHelp(t *testing.T) {
	notOnHeadscale(t, "a standby with another tag cannot see that its routes are approved")
	w, old, _ := twoRouters(t, time.Second, nil, func(w *world) secret.String {
		return w.createKey(tailnettest.Key{Reusable: true, Ephemeral: true, Preauthorized: true, Tags: []string{otherTag}})
	})
	// A flow that pauses between two requests of a second.
	paused := must(w.client.Dial(t.Context(), "tcp", net.JoinHostPort(dbHost, "80")))
	defer paused.Close()
	asked := make(chan error, 1)
	go func() { asked <- askOn(paused, "/?think=1s") }()
	testwait.Until(t, "the request to be in progress", func() error {
		if w.inProgress.Load() == 0 {
			return errors.New("it has not reached its server")
		}
		return nil
	})
	old.cmd.Process.Signal(syscall.SIGTERM)
	if err := <-asked; err != nil {
		t.Errorf("a request in progress: %v", err)
	}
	paused.SetReadDeadline(time.Now().Add(noticed))
	if _, err := paused.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the flow that was cut returned %v, want a reset", err)
	}
	if code := old.wait(); code != 0 {
		t.Errorf("the old router exited with code %d", code)
	}
	old.hasLogged(`"helpers":0`, `"quiet":true`, `"msg":"flows cut","tcp":1`)
}

// askOn sends a request over conn and keeps it open.
func askOn(conn net.Conn, path string) error {
	if _, err := io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return err
	}
	conn.SetReadDeadline(time.Now().Add(testwait.Limit()))
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, answer.Body)
	return err
}

// TestDeployWithoutHelpUnderLoad does the same with flows that are never between requests.
func TestDeployWithoutHelpUnderLoad(t *testing.T) {
	notOnHeadscale(t, "a standby with another tag cannot see that its routes are approved")
	w, old, _ := twoRouters(t, time.Second, map[string]string{"ROUTER_DRAIN_TIMEOUT": "6s"}, func(w *world) secret.String {
		return w.createKey(tailnettest.Key{Reusable: true, Ephemeral: true, Preauthorized: true, Tags: []string{otherTag}})
	})
	l := w.startLoad(manyFlows, 5*time.Second)
	l.window(time.Second)
	old.cmd.Process.Signal(syscall.SIGTERM)
	l.awaitCut(t)
	if n, slowest := l.cut(); n != manyFlows || slowest > noticed+streamEvery+l.slack() {
		t.Errorf("%d of %d flows learned of their end, the last %v after its last answer", n, manyFlows, slowest)
	} else {
		t.Logf("the last flow learned of its end %v after its last answer", slowest.Round(time.Millisecond))
	}
	if code := old.wait(); code != 0 {
		t.Errorf("the old router exited with code %d", code)
	}
	l.window(time.Second)
	l.stop()
	t.Logf("connections: %v", &l.connections)
	t.Logf("requests of %v: %v", requestTime, &l.requests)
	if gap := l.stalled(noticed); gap > 0 {
		t.Errorf("no connection succeeded for %v; the machine: %v", gap, &l.direct)
	}
	old.hasLogged(`"helpers":0`, `"quiet":false`)
}

// TestUDPAcrossDeploy keeps a UDP flow, which its target identifies by the port.
func TestUDPAcrossDeploy(t *testing.T) {
	w, old, _ := twoRouters(t, time.Second, nil, sameKey)
	session := w.serveSession(net.JoinHostPort(dbHost, "1009"))
	conn := must(w.client.Dial(t.Context(), "udp", net.JoinHostPort(dbHost, "1009")))
	defer conn.Close()
	held := must(w.client.Dial(t.Context(), "tcp", net.JoinHostPort(dbHost, echoPort))) // keeps the drain from ending
	defer held.Close()
	ask := func() error {
		var err error
		for range 5 {
			conn.Write([]byte("hello"))
			conn.SetReadDeadline(time.Now().Add(time.Second))
			if _, err = conn.Read(make([]byte, 10)); err == nil {
				return nil
			}
		}
		return err
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	old.cmd.Process.Signal(syscall.SIGTERM)
	old.awaitLog(`"msg":"routes handed over"`)
	for range 20 {
		if err := ask(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if peers := session(); peers != 1 {
		t.Errorf("the target saw %d clients, want the one flow throughout", peers)
	}
	if err := echoUDP(t.Context(), w, net.JoinHostPort(dbHost, "7"), 500); err != nil {
		t.Errorf("a new flow during the drain: %v", err)
	}
	held.Close()
	if code := old.wait(); code != 0 {
		t.Errorf("the old router exited with code %d", code)
	}
}

// TestCrash kills the primary: control notices, and gives the routes to the other router.
func TestCrash(t *testing.T) {
	notOnHeadscale(t, "it waits 10 s before it takes a node for offline")
	graces := []time.Duration{time.Second, 5 * time.Second}
	if _, soak := soakTime(t, 0); soak {
		graces = append(graces, 15*time.Second)
	}
	for _, grace := range graces {
		t.Run(grace.String(), func(t *testing.T) {
			w, old, _ := twoRouters(t, grace, nil, sameKey)
			l := w.startLoad(20, 30*time.Second)
			l.window(time.Second)
			old.cmd.Process.Kill()
			w.awaitPrimary("next")
			l.awaitCut(t)
			l.window(time.Second)
			l.cutShort()
			_, slowest := l.cut()
			t.Logf("the machine: %v", &l.direct)
			t.Logf("connections: %v; flows learned of it %v after their last answer at most", &l.connections, slowest.Round(time.Millisecond))
			most := grace + 3*time.Second
			if gap := l.stalled(most); gap > 0 {
				t.Errorf("no connection succeeded for %v, want at most %v", gap, most)
			}
			// The pauses between a client's retransmissions double. The new router resets the
			// first after the election, which may come more than twice the grace later. A
			// client whose request was acknowledged before the crash has nothing to
			// retransmit: it learns by its keepalive, which Go sends after 15 s.
			const keepalive = 15 * time.Second
			if most := max(3*grace+5*time.Second, keepalive+time.Second) + l.slack(); slowest > most {
				t.Errorf("a flow learned of its end after %v, want at most %v", slowest, most)
			}
		})
	}
}

// TestLostNetwork cuts the primary off from everything except the VPC: control can notice it
// only by the missing answers.
func TestLostNetwork(t *testing.T) {
	notOnHeadscale(t, "it waits 10 s before it takes a node for offline")
	w, _, _ := twoRouters(t, time.Second, nil, sameKey)
	l := w.startLoad(20, testwait.Limit())
	l.window(time.Second)
	w.routerHost.IP("link", "set", "eth0", "down")
	w.awaitPrimary("next")
	l.awaitCut(t)
	l.window(time.Second)
	l.cutShort()
	_, slowest := l.cut()
	t.Logf("connections: %v; flows learned of it %v after their last answer at most", &l.connections, slowest.Round(time.Millisecond))
	// tailnettest's control server probes after 5 s of silence, waits 5 s for an answer,
	// and then grants the grace.
	const most = 15 * time.Second
	if gap := l.stalled(most); gap > 0 {
		t.Errorf("no connection succeeded for %v, want at most %v", gap, most)
	}
}

// TestAloneAtTheEnd stops the only router: there is no peer router to wait for.
func TestAloneAtTheEnd(t *testing.T) {
	w := newWorld(t, worldOptions{})
	r := w.startRouter(routerOptions{key: w.routerKey, env: map[string]string{"ROUTER_DRAIN_TIMEOUT": "30s"}})
	r.awaitReady()
	began := time.Now()
	if code := r.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("stopping the only router took %v", took)
	}
}

// TestHoldBack breaks one router's link to the VPC, then the probe's target for all routers.
func TestHoldBack(t *testing.T) {
	w, old, next := twoRouters(t, time.Second, map[string]string{"ROUTER_PROBE": net.JoinHostPort(dbHost, "80")}, sameKey)
	w.routerHost.IP("link", "set", "eth1", "down")
	began := time.Now()
	w.awaitPrimary("next")
	t.Logf("the routes moved %v after the link was cut", time.Since(began).Round(time.Second))
	got := old.awaitReadyz("the old router's probe to fail", func(_ int, b ops.Readiness) bool { return len(b.Reasons) > 0 })
	if got.Reasons[0].Code != "probe_failed" || !strings.Contains(got.Reasons[0].Message, "routes are held back") {
		t.Errorf("/readyz returns %+v", got)
	}
	if code, body := old.get("/healthz"); code != 200 {
		t.Errorf("/healthz returns %d %s, want 200: a restart would not help", code, body)
	}

	// Now the target is down for all routers: the primary keeps its routes.
	w.vpc.IP("link", "set", "eth0", "down")
	next.awaitReadyz("the next router's probe to fail", func(_ int, b ops.Readiness) bool { return len(b.Reasons) > 0 })
	const failures = `router_probe_failures_total{target="` + dbHost + `:80"}`
	before := next.metric(failures)
	// A probe takes longer than the interval in which a router decides about holding back.
	testwait.Until(t, "one more probe", func() error {
		if n := next.metric(failures); n <= before {
			return fmt.Errorf("%v have failed", n)
		}
		return nil
	})
	w.awaitPrimary("next")
	if strings.Contains(next.out.String(), "holding routes back") {
		t.Error("the next router held its routes back while the target is down for all routers")
	}

	// Everything works again.
	w.vpc.IP("link", "set", "eth0", "up")
	w.routerHost.IP("link", "set", "eth1", "up")
	for _, a := range w.advertised {
		if a.Addr().Is4() {
			w.routerHost.IP("route", "replace", a.String(), "via", gatewayVPC)
		}
	}
	old.awaitReady()
	next.awaitReady()
	old.hasLogged(`"msg":"probe failing"`, "holding routes back", `"msg":"probe passes again"`, "advertising routes again")
}
