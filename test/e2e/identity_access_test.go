package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"subnetrouter/internal/awstest"
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

func (i *identities) startRouter(env map[string]string) *router {
	all := map[string]string{"AWS_ENDPOINT_URL": i.server.URL(), "ROUTER_REFRESH": "1s", "ROUTER_FLOW_LOG": "on"}
	maps.Copy(all, env)
	return i.w.startRouter(routerOptions{env: all})
}

// own returns the router's addresses in the tailnet.
func (i *identities) own() (own []string) {
	i.w.await("the router's addresses", func(nodes []tailnettest.Node) bool {
		n, ok := tailnettest.Find(nodes, "edge-router")
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
		Failover: time.Second, AutoApprovers: map[string][]netip.Prefix{tag: approvedRanges, otherTag: approvedRanges},
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
