package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"subnetrouter/internal/awstest"
	"subnetrouter/internal/netnstest"
	"subnetrouter/internal/ops"
	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"
)

const awsCapability = "subnetrouter.dev/cap/aws"

// identities is an AWS whose targets have identities: dbHost and secondHost are instances with tags, and
// secondHost is in the group "web".
type identities struct {
	w       *world
	control *tailnettest.Tailnet
	server  *awstest.Server
}

func newIdentities(t *testing.T) *identities {
	w := newWorld(t, worldOptions{})
	control, ours := w.testControl()
	if !ours {
		t.Skip("only tailnettest's control server lets a test change the grants")
	}
	inAWS := w.aws
	vpc := inAWS.VPCs[0].ID
	inAWS.Interfaces = append(inAWS.Interfaces[:1:1],
		awstest.Interface{ID: "eni-db", VPCID: vpc, Instance: "i-db", Addresses: []netip.Addr{netip.MustParseAddr(dbHost), w.host6}, Groups: []awstest.GroupRef{{ID: "sg-1", Name: "databases"}}},
		awstest.Interface{ID: "eni-second", VPCID: vpc, Instance: "i-second", Addresses: []netip.Addr{netip.MustParseAddr(secondHost)}, Groups: []awstest.GroupRef{{ID: "sg-2", Name: "web"}}})
	inAWS.PageSize = 2
	for _, host := range []string{dbHost, secondHost} {
		w.serveEchoTCP(net.JoinHostPort(host, echoPort))
	}
	server, err := awstest.NewServer(selfIP+":0", inAWS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	i := &identities{w, control, server}
	i.tag("prod", "test")
	return i
}

// tag sets the tag env of the two instances.
func (i *identities) tag(db, second string) {
	i.server.Update(func(w *awstest.World) {
		w.Instances = map[string]map[string]string{"i-db": {"env": db}, "i-second": {"env": second}}
	})
}

func (i *identities) startRouter(env map[string]string) *router { return i.startRouterOn(nil, env) }

// startRouterOn starts a router on a host, by default the world's router host.
func (i *identities) startRouterOn(host *netnstest.Host, env map[string]string) *router {
	all := map[string]string{"AWS_ENDPOINT_URL": i.server.URL(), "ROUTER_REFRESH": "1s", "ROUTER_FLOW_LOG": "on"}
	maps.Copy(all, env)
	return i.w.startRouter(routerOptions{env: all, host: host})
}

// own returns the router's addresses in the tailnet.
func (i *identities) own() []string { return i.addresses("edge-router") }

func (i *identities) addresses(name string) (own []string) {
	i.w.await("the addresses of "+name, func(nodes []tailnettest.Node) bool {
		n, ok := tailnettest.Find(nodes, name)
		own = nil
		for _, a := range n.IPs {
			own = append(own, a.String())
		}
		return ok && len(own) == 2
	})
	return own
}

// grant lets every packet through the access rules, and gives every node app capabilities.
func (i *identities) grant(rules ...tailnettest.Rule) {
	i.w.t.Helper()
	p := tailnettest.Policy{
		Failover: time.Second, AutoApprovers: map[string][]netip.Prefix{tag: append([]netip.Prefix{netip.MustParsePrefix(via + "0:0/96")}, approvedRanges...)},
		Rules: append([]tailnettest.Rule{{Src: []string{"*"}, Dst: []string{"*"}}}, rules...),
	}
	if err := i.control.SetPolicy(i.w.t.Context(), p); err != nil {
		i.w.t.Fatal(err)
	}
}

func app(capability string, dst []string, values ...string) tailnettest.Rule {
	return tailnettest.Rule{Src: []string{"*"}, Dst: dst, App: map[string][]string{capability: values}}
}

// TestAccessByIdentity moves access with grants and tags: new flows are refused or let through within a refresh,
// flows that are no longer allowed end, and others continue.
func TestAccessByIdentity(t *testing.T) {
	i := newIdentities(t)
	w := i.w
	r := i.startRouter(map[string]string{"ROUTER_ACCESS": "grants", "ROUTER_ACCESS_CUT": "on"})
	c := w.startClient()
	r.awaitReady()
	c.awaitRoute("10.8.0.0/16")
	own := i.own()
	db, second := net.JoinHostPort(dbHost, "80"), net.JoinHostPort(secondHost, "80")

	// Without a grant, and with every capability but the right one.
	refused := func(name string) {
		t.Helper()
		for _, address := range []string{db, second, net.JoinHostPort(w.host6.String(), "80")} {
			began := time.Now()
			if w.reachesTCP(address) {
				t.Errorf("%s: %s is reachable", name, address)
			} else if took := time.Since(began); took > 2*time.Second {
				t.Errorf("%s: %s was refused after %v", name, address, took)
			}
		}
		if err := echoUDP(t.Context(), w, net.JoinHostPort(dbHost, "7"), 10); err == nil {
			t.Errorf("%s: UDP is let through", name)
		}
		if out, code := c.sh("ping", "-c", "1", "-W", "1", dbHost); code == 0 {
			t.Errorf("%s: ping is let through: %s", name, out)
		}
	}
	refused("no grant")
	r.awaitLog(`"msg":"access denied"`)
	const allow = `{"cidrs":["0.0.0.0/0","::/0"]}`
	i.grant(
		app("subnetrouter.dev/cap/status", own, `{"read":true}`, allow), app("subnetrouter.dev/cap/aws2", own, allow), app("example.com/cap/aws", own, allow),
		app("subnetrouter.dev/cap", own, allow), app("SUBNETROUTER.DEV/CAP/AWS", own, allow),
		app(awsCapability, []string{dbHost, "10.0.0.0/8", "100.64.99.9"}, allow),
		tailnettest.Rule{Src: []string{own[0]}, Dst: own, App: map[string][]string{awsCapability: {allow}}},
		app(awsCapability, own, `{}`, `[`+allow+`]`, `null`, `{"ports":["*"]}`, `{"cidrs":["0.0.0.0/0"],"ports":[]}`, `{"cidrs":["0.0.0.0/0"],"deny":1}`,
			`{"cidrs":["0.0.0.0/0"],"securityGroups":["sg-1"],"tags":{"env":"none"}}`, `{"vpcs":["vpc-other"],"cidrs":["0.0.0.0/0"]}`),
	)
	testwait.Until(t, "the router to read the grants", func() error {
		if w.reachesTCP(db) {
			t.Fatal("one of the other capabilities lets a flow through")
		}
		if !strings.Contains(r.out.String(), "a rule of a grant is ignored") {
			return errors.New("not logged yet")
		}
		return nil
	})
	refused("every other capability")

	// Two grants add up: one by tag, one by group.
	byTag := app(awsCapability, own, `{"tags":{"env":"prod"},"ports":["tcp:80","tcp:`+echoPort+`","udp:7","icmp:*"]}`)
	byGroup := app(awsCapability, own, `{"securityGroups":["web"],"ports":["tcp:`+echoPort+`"]}`)
	i.grant(byTag, byGroup)
	granted := time.Now()
	w.awaitReach("a grant by tag", db, true, followed)
	t.Logf("a grant takes effect after %v", time.Since(granted).Round(time.Millisecond))
	if w.reachesTCP(second) {
		t.Error("a port that no rule names is reachable")
	}
	checkUDPAndPing(t, c, w)
	moved, stays := w.startStream(net.JoinHostPort(dbHost, echoPort)), w.startStream(net.JoinHostPort(secondHost, echoPort))
	defer moved.stop()
	defer stays.stop()

	// The tag moves to the other instance.
	i.tag("test", "prod")
	changed := time.Now()
	w.awaitReach("the target that lost its tag", db, false, followed)
	lost := time.Since(changed)
	w.awaitReach("the target that got the tag", second, true, followed)
	t.Logf("a tag moves access after %v, with ROUTER_REFRESH=1s", lost.Round(time.Millisecond))
	if lost > 3*time.Second {
		t.Errorf("the tag moved access after %v, want about a second", lost)
	}
	select {
	case <-moved.done:
	case <-time.After(followed):
		t.Error("a flow that is no longer allowed is still open")
	}
	select {
	case <-stays.done:
		t.Errorf("a flow that another grant allows has ended: %v", stays.err)
	case <-time.After(2 * time.Second):
	}

	// A look-up that fails takes nothing away.
	i.server.Fail("ec2:DescribeNetworkInterfaces", awstest.Failure{Status: 503, Code: "RequestLimitExceeded", Message: "Request limit exceeded."})
	testwait.Until(t, "the failure to be reported", func() error {
		if _, body := r.get("/readyz"); !strings.Contains(body, `"targets_unknown"`) {
			return fmt.Errorf("/readyz: %s", body)
		}
		return nil
	})
	if !w.reachesTCP(second) || w.reachesTCP(db) {
		t.Error("access changed while AWS does not answer")
	}
	if code, body := r.get("/readyz"); code != 200 {
		t.Errorf("not ready: %s", body)
	}
	if n := r.metric(`router_access_decisions_total{result="denied"}`); n < 6 {
		t.Errorf("%v denials are counted", n)
	}
	if n := r.metric(`router_access_targets`); n != 3 {
		t.Errorf("%v targets, want 3", n)
	}
	var status ops.Status
	if _, body := r.get("/status"); json.Unmarshal([]byte(body), &status) != nil || status.Access == nil {
		t.Fatalf("status %s", body)
	}
	if a := status.Access; a.Mode != "grants" || a.Targets != 3 || a.LookedUp.IsZero() || !strings.Contains(a.Error, "RequestLimitExceeded") ||
		a.Peers != 1 || a.Rules != 2 || a.Malformed != 0 || a.Allowed < 5 || a.Denied < 6 || len(a.Denials) == 0 || a.Denials[0].Node != "laptop" {
		t.Errorf("status: %+v", a)
	}
	r.stop()
	r.hasLogged(`"rule":"none"`, `"reason":"denied"`, `"rule":"{\"tags\":{\"env\":\"prod\"}`, `"reason":"revoked"`)
}

// checkUDPAndPing sends a datagram and an echo request to dbHost.
func checkUDPAndPing(t *testing.T, c *client, w *world) {
	t.Helper()
	if err := echoUDP(t.Context(), w, net.JoinHostPort(dbHost, "7"), 10); err != nil {
		t.Errorf("UDP: %v", err)
	}
	if out, code := c.sh("ping", "-c", "1", "-W", "5", dbHost); code != 0 {
		t.Errorf("ping: %s", out)
	}
}

// TestAccessReport: report lets all flows through, and logs and counts those that grants would deny.
func TestAccessReport(t *testing.T) {
	i := newIdentities(t)
	w := i.w
	r := i.startRouter(map[string]string{"ROUTER_ACCESS": "report", "ROUTER_ACCESS_CUT": "on"})
	c := w.startClient()
	r.awaitReady()
	c.awaitRoute("10.8.0.0/16")
	i.grant(app(awsCapability, i.own(), `{"securityGroups":["sg-1"],"ports":["tcp:80"]}`))
	testwait.Until(t, "the grant", func() error {
		w.reachesTCP(net.JoinHostPort(dbHost, "80"))
		if n := r.metric(`router_access_decisions_total{result="allowed"}`); n < 1 {
			return fmt.Errorf("%v flows are counted as allowed", n)
		}
		return nil
	})
	checkUDPAndPing(t, c, w)
	stream := w.startStream(net.JoinHostPort(secondHost, echoPort))
	defer stream.stop()
	r.awaitLog(`"msg":"access would be denied"`)
	r.hasLogged(secondHost+":"+echoPort, `eni-second`, `does not match tcp:`+echoPort)
	if n := r.metric(`router_access_decisions_total{result="denied"}`); n < 3 {
		t.Errorf("%v flows are counted as denied, want 3: UDP, ping and TCP", n)
	}
	select {
	case <-stream.done:
		t.Errorf("a flow ended: %v", stream.err)
	case <-time.After(2500 * time.Millisecond): // two refreshes
	}
}

// TestAccessByIdentityIn4via6: a target is decided about by the rules of its IPv4 address if a client reaches
// it by the 4via6 address, and a CIDR that contains the latter opens nothing.
func TestAccessByIdentityIn4via6(t *testing.T) {
	i := newIdentities(t)
	w := i.w
	i.grant()
	c := w.startClient()
	db, second := via+"a00:304", via+"a08:9" // dbHost, secondHost
	for _, mode := range []string{"grants", "report"} {
		r := i.startRouter(map[string]string{"ROUTER_ACCESS": mode, "ROUTER_ACCESS_CUT": "on", "ROUTER_SITE_ID": "7"})
		r.awaitReady()
		c.awaitRoute(via + "a00:0/112") // 10.0.0.0/16
		c.awaitRoute(via + "a08:0/112")
		// The address itself is in ::/0, and so is that of NAT64 for it.
		i.grant(app(awsCapability, i.own(), `{"cidrs":["::/0"]}`, `{"tags":{"env":"prod"},"ports":["tcp:80","tcp:`+echoPort+`","udp:7","icmp:*"]}`, `{"cidrs":["`+secondHost+`"],"ports":["tcp:443"]}`))
		reached := net.JoinHostPort(db, "80")
		w.awaitReach(mode+": a grant by tag", reached, true, followed)
		if err := echoUDP(t.Context(), w, net.JoinHostPort(db, "7"), 10); err != nil {
			t.Errorf("%s: UDP: %v", mode, err)
		}
		if out, code := c.sh("ping", "-n", "-c", "1", "-W", "5", db); code != 0 {
			t.Errorf("%s: ping: %s", mode, out)
		}
		refused := net.JoinHostPort(second, "80")
		if mode == "report" {
			if !w.reachesTCP(refused) {
				t.Error("report does not let a flow through")
			}
			r.awaitLog(`"msg":"access would be denied"`)
		} else {
			if w.reachesTCP(refused) {
				t.Error("a target that no rule names is reachable")
			}
			if err := echoUDP(t.Context(), w, net.JoinHostPort(second, "7"), 10); err == nil {
				t.Error("UDP to a target that no rule names is let through")
			}
			if out, code := c.sh("ping", "-n", "-c", "1", "-W", "1", second); code == 0 {
				t.Errorf("ping is let through: %s", out)
			}
			r.awaitLog(`"msg":"access denied"`)
			// The tag moves to the other instance, and ends the open flow.
			stream := w.startStream(net.JoinHostPort(db, echoPort))
			i.tag("test", "prod")
			w.awaitReach("the target that got the tag", refused, true, followed)
			select {
			case <-stream.done:
			case <-time.After(followed):
				t.Error("a flow that is no longer allowed is still open")
				stream.stop()
			}
			i.tag("prod", "test")
		}
		r.hasLogged(`"target":"`+secondHost+`:80"`, "eni-second") // the IPv4 address, as rules name it
		i.grant()
		r.stop()
	}
}

// TestAccessByIdentityAcrossDeploy stops the old task while flows are open: those that a grant allows continue, the new
// process decides by the same rules, and a flow whose grant or tag is removed during the hand-over ends.
func TestAccessByIdentityAcrossDeploy(t *testing.T) {
	i := newIdentities(t)
	w := i.w
	i.grant()
	env := func(name string) map[string]string {
		return map[string]string{"ROUTER_ACCESS": "grants", "ROUTER_ACCESS_CUT": "on", "ROUTER_HOSTNAME": name, "ROUTER_DRAIN_TIMEOUT": "60s"}
	}
	old := i.startRouter(env("old"))
	c := w.startClient()
	old.awaitReady()
	w.awaitPrimary("old")
	c.awaitRoute("10.8.0.0/16")
	host := w.newRouterHost("next", "192.168.77.31", "10.0.1.6")
	metadata := w.startMetadataAt(host, func(task *awstest.Task) { task.IPv4 = []netip.Addr{netip.MustParseAddr("10.0.1.6")} })
	inNext := env("next")
	inNext["ECS_CONTAINER_METADATA_URI_V4"] = metadata.URI()
	next := i.startRouterOn(host, inNext)
	next.awaitReady()

	routers := append(i.addresses("old"), i.addresses("next")...)
	byTag := app(awsCapability, routers, `{"tags":{"env":"prod"},"ports":["tcp:`+echoPort+`"]}`)
	byGroup := app(awsCapability, routers, `{"securityGroups":["web"],"ports":["tcp:`+echoPort+`"]}`)
	byAddress := app(awsCapability, routers, `{"cidrs":["`+dbHost+`"],"ports":["tcp:443","tcp:80"]}`)
	i.grant(byTag, byGroup, byAddress)
	db, second, web := net.JoinHostPort(dbHost, echoPort), net.JoinHostPort(secondHost, echoPort), net.JoinHostPort(dbHost, "80")
	w.awaitReach("a grant by tag", db, true, followed)
	w.awaitReach("a grant by group", second, true, followed)
	tagged, grouped := w.startStream(db), w.startStream(second)
	defer tagged.stop()
	defer grouped.stop()
	open := func(s *stream, name string, during time.Duration) {
		t.Helper()
		select {
		case <-s.done:
			t.Fatalf("the flow by %s has ended: %v", name, s.err)
		case <-time.After(during):
		}
	}
	ended := func(s *stream, name string, within time.Duration) {
		t.Helper()
		began := time.Now()
		select {
		case <-s.done:
			t.Logf("the flow by %s ended after %v", name, time.Since(began).Round(time.Millisecond))
		case <-time.After(within):
			t.Errorf("the flow by %s is still open after %v", name, within)
		}
	}

	old.cmd.Process.Signal(syscall.SIGTERM)
	old.awaitLog(`"msg":"routes handed over"`)
	w.awaitPrimary("next")
	open(tagged, "tag", time.Second)
	open(grouped, "group", time.Second)
	// New flows are those of the new process, with the same rules.
	for address, want := range map[string]bool{db: true, second: true, web: true, net.JoinHostPort(secondHost, "80"): false} {
		if got := w.reachesTCP(address); got != want {
			t.Errorf("a new flow to %s: %v, want %v", address, got, want)
		}
	}
	if allowed, denied := next.metric(`router_access_decisions_total{result="allowed"}`), next.metric(`router_access_decisions_total{result="denied"}`); allowed < 3 || denied < 1 {
		t.Errorf("the new process allowed %v and denied %v flows", allowed, denied)
	}

	// Rules are frozen for 10 s at most while control moves the routes.
	const frozen = 10 * time.Second
	i.grant(byTag, byAddress)
	ended(grouped, "group", frozen+followed)
	open(tagged, "tag", time.Second)
	if w.reachesTCP(second) {
		t.Error("a new flow without a grant is let through")
	}
	i.tag("test", "test")
	ended(tagged, "tag", followed)
	w.awaitReach("a grant that remains", web, true, followed)
	if code := old.wait(); code != 0 {
		t.Errorf("the old router exited with code %d", code)
	}
	old.hasLogged(`"msg":"drained","flows_cut":0`)
	if n := strings.Count(old.out.String(), `"reason":"revoked"`); n != 2 {
		t.Errorf("%d flows of the old router were revoked, want 2", n)
	}
}
