package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"
	"subnetrouter/internal/why"
)

// whyCase is a network with one fault, two or none. stop is the step that has to be named, "" is
// none; also is the step of the second fault.
type whyCase struct {
	name       string
	change     func(*rules)
	ask        string // "tcp 10.0.3.4:80" if empty
	stop, also string
	with       []string           // further steps that the fault stops
	access     []tailnettest.Rule // nil allows everything
	host       string             // a rule of iptables of the target itself
	prepare    func(w *world) (undo func())
}

var (
	fromLaptop = []string{"*"}
	stranger   = []string{"100.64.99.99"}
)

// whyCases are the faults. The ACLs of "ephemeral" allow what a stateless filter needs, and no more.
var whyCases = []whyCase{
	{name: "nothing wrong"},
	{name: "groups that refer to each other", change: func(r *rules) {
		r.taskEgress, r.dbIngress = []string{"tcp 80 group:db"}, []string{"tcp 80 group:task"}
	}},
	{name: "prefix lists", change: func(r *rules) {
		r.taskEgress, r.dbIngress = []string{"tcp 80 list:with"}, []string{"tcp 1-1024 list:with"}
	}},
	{name: "ACLs with ephemeral ports, and a deny behind the allow", change: func(r *rules) {
		r.taskACL = []string{"100 allow out tcp 80 10.0.0.0/16", "110 allow in tcp 1024-65535 10.0.0.0/16", "200 deny out tcp 80 10.0.3.4/32"}
		r.dbACL = []string{"100 allow in tcp 80 10.0.1.0/24", "110 allow out tcp 32768-60999 10.0.1.0/24"}
	}},
	{name: "UDP", ask: "udp 10.0.3.4:7", change: func(r *rules) { r.dbIngress = []string{"udp 7 10.0.1.0/24"} }},
	{name: "ping", ask: "icmp 10.0.3.4", change: func(r *rules) {
		r.dbIngress = []string{"icmp 8 10.0.1.0/24"}
		r.taskACL = []string{"1 allow out icmp 8 0.0.0.0/0", "1 allow in icmp 0 0.0.0.0/0"}
	}},
	{name: "a peering", ask: "tcp 10.50.0.4:80"},
	{name: "access for the port only", access: []tailnettest.Rule{{Src: fromLaptop, Dst: []string{"10.0.3.4"}, Port: 80}}},

	{name: "no egress rule", stop: "task-groups", change: func(r *rules) { r.taskEgress = nil }},
	{name: "egress to port 443", stop: "task-groups", change: func(r *rules) { r.taskEgress = []string{"tcp 443 0.0.0.0/0"} }},
	{name: "egress to another network", stop: "task-groups", change: func(r *rules) { r.taskEgress = []string{"tcp 80 10.8.0.0/16"} }},
	{name: "egress to another group", stop: "task-groups", change: func(r *rules) { r.taskEgress = []string{"tcp 80 group:other"} }},
	{name: "egress to another list", stop: "task-groups", change: func(r *rules) { r.taskEgress = []string{"tcp 80 list:without"} }},
	{name: "egress of UDP", stop: "task-groups", change: func(r *rules) { r.taskEgress = []string{"udp 0-65535 0.0.0.0/0"} }},
	{name: "egress of TCP for ping", ask: "icmp 10.0.3.4", stop: "task-groups", change: func(r *rules) { r.taskEgress = []string{"tcp 0-65535 0.0.0.0/0"} }},

	{name: "no ingress rule", stop: "target-groups", change: func(r *rules) { r.dbIngress = nil }},
	{name: "ingress to another port", stop: "target-groups", change: func(r *rules) { r.dbIngress = []string{"tcp 5432 0.0.0.0/0"} }},
	{name: "ingress to a range beside it", stop: "target-groups", change: func(r *rules) { r.dbIngress = []string{"tcp 81-90 0.0.0.0/0"} }},
	{name: "ingress from another subnet", stop: "target-groups", change: func(r *rules) { r.dbIngress = []string{"tcp 80 10.0.2.0/24"} }},
	{name: "ingress from another group", stop: "target-groups", change: func(r *rules) { r.dbIngress = []string{"tcp 80 group:other"} }},
	{name: "ingress from its own group", stop: "target-groups", change: func(r *rules) { r.dbIngress = []string{"-1 - group:db"} }},
	{name: "ingress from another list", stop: "target-groups", change: func(r *rules) { r.dbIngress = []string{"tcp 80 list:without"} }},
	{name: "ingress of TCP for UDP", ask: "udp 10.0.3.4:7", stop: "target-groups", change: func(r *rules) { r.dbIngress = []string{"tcp 0-65535 0.0.0.0/0"} }},
	{name: "ingress of another ICMP type", ask: "icmp 10.0.3.4", stop: "target-groups", change: func(r *rules) { r.dbIngress = []string{"icmp 3 0.0.0.0/0"} }},

	{name: "the task's ACL denies the port", stop: "task-acl-out", change: func(r *rules) { r.taskACL = append(r.taskACL[:2:2], "90 deny out tcp 80 0.0.0.0/0") }},
	{name: "the task's ACL denies the target", stop: "task-acl-out", change: func(r *rules) { r.taskACL = append(r.taskACL[:2:2], "90 deny out -1 - 10.0.3.0/24") }},
	{name: "the task's ACL allows HTTPS only", stop: "task-acl-out", change: func(r *rules) {
		r.taskACL = []string{"100 allow out tcp 443 0.0.0.0/0", "100 allow in -1 - 0.0.0.0/0"}
	}},
	{name: "the target's ACL has no inbound rule", stop: "target-acl-in", change: func(r *rules) { r.dbACL = r.dbACL[1:] }},
	{name: "the target's ACL denies the task's subnet", stop: "target-acl-in", change: func(r *rules) { r.dbACL = append(r.dbACL[:2:2], "1 deny in tcp 0-65535 10.0.1.0/24") }},
	{name: "the target's ACL allows another port", stop: "target-acl-in", change: func(r *rules) {
		r.dbACL = []string{"100 allow in tcp 5432 0.0.0.0/0", "100 allow out -1 - 0.0.0.0/0"}
	}},
	{name: "the target's ACL has no ephemeral ports", stop: "target-acl-out", change: func(r *rules) {
		r.dbACL = []string{"100 allow in -1 - 0.0.0.0/0", "100 allow out tcp 80 0.0.0.0/0"}
	}},
	{name: "the target's ACL denies replies", stop: "target-acl-out", change: func(r *rules) { r.dbACL = append(r.dbACL[:2:2], "5 deny out tcp 1024-65535 10.0.0.0/16") }},
	{name: "the target's ACL denies replies of ping", ask: "icmp 10.0.3.4", stop: "target-acl-out", change: func(r *rules) { r.dbACL = append(r.dbACL[:2:2], "5 deny out icmp 0 0.0.0.0/0") }},
	{name: "the task's ACL has no inbound rule", stop: "task-acl-in", change: func(r *rules) { r.taskACL = r.taskACL[1:] }},
	{name: "the task's ACL allows low ports", stop: "task-acl-in", change: func(r *rules) {
		r.taskACL = []string{"100 allow out -1 - 0.0.0.0/0", "100 allow in tcp 1-1023 0.0.0.0/0"}
	}},
	{name: "the task's ACL allows no UDP replies", ask: "udp 10.0.3.4:7", stop: "task-acl-in", change: func(r *rules) {
		r.taskACL = []string{"100 allow out -1 - 0.0.0.0/0", "100 allow in tcp 1-65535 0.0.0.0/0"}
	}},
	{name: "the task's ACL allows no replies of ping", ask: "icmp 10.0.3.4", stop: "task-acl-in", change: func(r *rules) {
		r.taskACL = []string{"100 allow out -1 - 0.0.0.0/0", "100 allow in tcp 0-65535 0.0.0.0/0"}
	}},

	{name: "no route to the peered VPC", ask: "tcp 10.50.0.4:80", stop: "route-table", change: func(r *rules) { r.routes = nil }},
	{name: "only a default route", ask: "tcp 10.50.0.4:80", stop: "route-table", change: func(r *rules) { r.routes = []string{"0.0.0.0/0 internet"} }},
	{name: "a peering that was not accepted", ask: "tcp 10.50.0.4:80", stop: "peering", change: func(r *rules) { r.peering = "pending" }},
	{name: "a peering that was rejected", ask: "tcp 10.50.0.4:80", stop: "peering", change: func(r *rules) { r.peering = "reject" }},
	{name: "no route back", ask: "tcp 10.50.0.4:80", stop: "target-route-table", change: func(r *rules) { r.peerRoutes = nil }},
	{name: "an address without an interface", ask: "tcp 10.0.3.99:80", stop: "probe"},

	{name: "no access rule", stop: "filter", access: []tailnettest.Rule{{Src: fromLaptop, Dst: []string{"10.8.0.0/16"}}}},
	{name: "access to another port", stop: "filter", access: []tailnettest.Rule{{Src: fromLaptop, Dst: []string{"10.0.0.0/16"}, Port: 443}}},
	{name: "access for another node", stop: "filter", access: []tailnettest.Rule{{Src: stranger, Dst: []string{"10.0.0.0/16"}}, {Src: fromLaptop, Dst: []string{"10.8.0.0/16"}}}},
	{name: "no route of any router", ask: "tcp 172.20.0.4:80", stop: "route", with: []string{"route-table"}},
	{name: "the router's own listener", ask: "tcp 10.0.1.5:9002", stop: "deny"},
	{name: "the metadata endpoint", ask: "tcp 169.254.170.2:80", stop: "route", with: []string{"deny", "route-table"}},
	{name: "a name that does not exist", ask: "tcp missing.invalid:80", stop: "dns"},
	{name: "nothing listens", ask: "tcp 10.0.3.4:81", stop: "probe"},
	{name: "the target's own firewall", stop: "probe", host: "-p tcp --dport 80"},
	{name: "a node that advertises a longer route", stop: "route", prepare: func(w *world) func() {
		control, _ := w.testControl()
		must(0, control.ForceRoutes(w.t.Context(), "stranger", netip.MustParsePrefix("10.0.3.0/24")))
		return func() { must(0, control.ForceRoutes(w.t.Context(), "stranger")) }
	}},

	{name: "egress and ingress", stop: "task-groups", also: "target-groups", change: func(r *rules) { r.taskEgress, r.dbIngress = nil, []string{"tcp 81 0.0.0.0/0"} }},
	{name: "ingress and replies", stop: "target-groups", also: "target-acl-out", change: func(r *rules) {
		r.dbIngress, r.dbACL = nil, []string{"100 allow in -1 - 0.0.0.0/0"}
	}},
	{name: "access and ingress", stop: "filter", also: "target-groups", access: []tailnettest.Rule{{Src: fromLaptop, Dst: []string{"10.0.0.0/16"}, Port: 443}}, change: func(r *rules) { r.dbIngress = nil }},
	{name: "both ACLs", stop: "task-acl-out", also: "target-acl-in", change: func(r *rules) { r.taskACL, r.dbACL = r.taskACL[:1], r.dbACL[1:] }},
	{name: "egress and no route back", ask: "tcp 10.50.0.4:80", stop: "task-groups", also: "target-route-table", change: func(r *rules) { r.taskEgress, r.peerRoutes = nil, nil }},
	{name: "access and a closed port", ask: "tcp 10.0.3.4:81", stop: "filter", also: "probe", access: []tailnettest.Rule{{Src: fromLaptop, Dst: []string{"10.0.0.0/16"}, Port: 443}}},
}

// TestWhy asks `router why` about flows through networks with faults, and sends such a flow. The
// answer and the fate of the packets must agree, and the fault must be named. The router sees only
// APIs, and its own connections.
func TestWhy(t *testing.T) {
	if _, err := exec.LookPath("iptables-restore"); err != nil {
		skipOrFail(t, "iptables-restore is not on PATH")
	}
	w := newWorld(t, worldOptions{})
	control, ours := w.testControl()
	if !ours {
		t.Skip("only tailnettest's control server lets a test change the access rules")
	}
	f := w.newFirewall()
	f.set(open())
	r := w.startRouter(routerOptions{env: map[string]string{"ROUTER_ROUTES": "vpc,10.50.0.0/16", "ROUTER_TAILNET_STATUS": "on"}})
	c := w.startClient()
	w.startStranger()
	r.awaitReady()
	c.awaitRoute("10.0.0.0/16")
	c.awaitRoute("10.50.0.0/16")

	counts := map[string]int{}
	for _, tc := range whyCases {
		t.Run(tc.name, func(t *testing.T) {
			parent := w.t
			w.t, r.t = t, t
			defer func() { w.t, r.t = parent, parent }()
			configured := open()
			if tc.change != nil {
				tc.change(&configured)
			}
			f.set(configured)
			policy := tailnettest.Policy{AutoApprovers: map[string][]netip.Prefix{tag: approvedRanges, otherTag: approvedRanges}, Rules: tc.access}
			if err := control.SetPolicy(t.Context(), policy); err != nil {
				t.Fatal(err)
			}
			if tc.host != "" {
				rule := append([]string{"-I", "INPUT", "1"}, append(strings.Fields(tc.host), "-j", "DROP")...)
				if out, err := w.vpc.Command(testwait.Context(t), "iptables", rule...).CombinedOutput(); err != nil {
					t.Fatalf("iptables: %v: %s", err, out)
				}
			}
			if tc.prepare != nil {
				defer tc.prepare(w)()
			}
			ask := tc.ask
			if ask == "" {
				ask = "tcp " + dbHost + ":80"
			}
			// The policy and routes of control take a moment to arrive.
			testwait.Until(t, "the answer and the fate of the packets", func() (err error) {
				defer func() {
					if err != nil {
						t.Log(err)
						time.Sleep(2 * time.Second) // the router answers one question a second
					}
				}()
				fate := make(chan bool, 1)
				go func() { fate <- w.arrives(ask) }()
				answer, out, code := r.why(ask)
				arrived := <-fate
				switch {
				case answer.Stop != tc.stop:
					return fmt.Errorf("stopped by %q, want %q:\n%s", answer.Stop, tc.stop, out)
				case arrived != (tc.stop == ""):
					return fmt.Errorf("the packets arrive: %v; the answer:\n%s", arrived, out)
				case code == 0 != answer.Passes, answer.Passes != (tc.stop == ""):
					return fmt.Errorf("exit code %d:\n%s", code, out)
				}
				return tc.check(answer)
			})
			switch {
			case tc.also != "":
				counts["pairs"]++
			case tc.stop != "":
				counts["faults"]++
			default:
				counts["clean"]++
			}
		})
	}
	t.Logf("named: %v", counts)
	f.set(open())
	t.Run("on the tailnet", func(t *testing.T) { checkWhyOnTailnet(t, w, r, c, control) })
}

// checkWhyOnTailnet asks from the client, at the router's tailnet address, without and with the
// app capability, and verifies the router from there.
func checkWhyOnTailnet(t *testing.T, w *world, r *router, c *client, control *tailnettest.Tailnet) {
	var own []string
	w.await("the router's addresses", func(nodes []tailnettest.Node) bool {
		n, ok := tailnettest.Find(nodes, "edge-router")
		own = nil
		for _, a := range n.IPs {
			own = append(own, a.String())
		}
		return ok && len(own) == 2
	})
	everything := tailnettest.Rule{Src: []string{"*"}, Dst: []string{"*"}}
	grant := func(name, value string) tailnettest.Rule {
		return tailnettest.Rule{Src: []string{"*"}, Dst: own, App: map[string][]string{"subnetrouter.dev/cap/" + name: {value}}}
	}
	set := func(rules ...tailnettest.Rule) {
		t.Helper()
		p := tailnettest.Policy{AutoApprovers: map[string][]netip.Prefix{tag: approvedRanges, otherTag: approvedRanges}, Rules: rules}
		if err := control.SetPolicy(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	ask := func(want string) {
		t.Helper()
		testwait.Until(t, "the answer "+want, func() error {
			out, _ := c.sh("curl", "-gsS", "-m", "20", "-X", "POST", "-w", " %{http_code}", "http://"+own[0]+":9002/why?target="+dbHost+":80&from=laptop")
			if !strings.Contains(out, want) {
				return fmt.Errorf("got %s", out)
			}
			return nil
		})
	}
	verify := func(timeout string) (string, int) {
		return c.sh(binary("router"), "verify", "--at", "http://"+own[0]+":9002", "--timeout", timeout)
	}
	set(everything)
	ask("cap/status")
	if out, code := verify("20s"); code != 1 || !strings.Contains(out, "cap/status") {
		t.Errorf("verify without a grant: exit %d: %s", code, out)
	}
	set(everything, grant("status", `{"read": true}`))
	ask("cap/why")
	set(everything, grant("status", `{"read": true}`), grant("why", `{"probe": false}`))
	ask("cap/why")
	set(everything, grant("status", `{"read": true}`), grant("why", `{"probe": true}`))
	ask(`"passes": true`)
	if out, code := r.run("router", "why", dbHost+":80", "--from", "laptop"); code != 0 || !strings.Contains(out, "nothing stops it") {
		t.Errorf("exit %d: %s", code, out)
	}
	if out, code := verify("60s"); code != 0 || !strings.Contains(out, "edge-router serves 10.0.0.0/16") {
		t.Errorf("verify: exit %d: %s", code, out)
	}
	// A scan of the VPC through the field ends at the bound of one peer.
	refused := false
	for port := range 40 {
		out, _ := c.sh("curl", "-gsS", "-m", "20", "-X", "POST", "-w", " %{http_code}", "http://"+own[0]+":9002/why?target="+net.JoinHostPort(dbHost, fmt.Sprint(100+port)))
		refused = refused || strings.HasSuffix(out, " 429")
	}
	if !refused {
		t.Error("a peer may ask 40 times")
	}
}

// check compares all steps of an answer with the faults: no other step may stop the flow, except
// for the probe, and that of a flow that cannot be sent.
func (tc whyCase) check(a why.Answer) error {
	also := tc.also == ""
	for _, s := range a.Steps {
		if s.Verdict == why.Unknown && (tc.stop == "" || strings.Contains(s.Evidence, "yet the probe")) {
			return fmt.Errorf("%s is unknown: %s", s.Name, s.Evidence)
		}
		if s.Verdict != why.Stop {
			continue
		}
		also = also || s.Name == tc.also
		if s.Name != tc.stop && s.Name != tc.also && s.Name != "probe" && !slices.Contains(tc.with, s.Name) {
			return fmt.Errorf("%s stops it too: %s", s.Name, s.Evidence)
		}
	}
	if !also {
		return fmt.Errorf("%s is not among the steps that stop it: %+v", tc.also, a.Steps)
	}
	return nil
}

// why runs `router why` in the router's namespace.
func (r *router) why(ask string) (a why.Answer, out string, code int) {
	r.t.Helper()
	protocol, target, _ := strings.Cut(ask, " ")
	args := []string{"why", target, "--from", "laptop", "--json"}
	if protocol != "tcp" {
		args = append(args, "--"+protocol)
	}
	out, code = r.run("router", args...)
	json.Unmarshal([]byte(out), &a)
	return a, out, code
}

// arrives reports whether a flow from the client to the target is answered.
func (w *world) arrives(ask string) bool {
	protocol, target, _ := strings.Cut(ask, " ")
	switch protocol {
	case "icmp":
		ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Second)
		defer cancel()
		return w.client.Command(ctx, "ping", "-n", "-c", "1", "-W", "2", target).Run() == nil
	case "udp":
		conn, err := w.client.Dial(w.t.Context(), "udp", target)
		if err != nil {
			return false
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(2 * time.Second))
		conn.Write([]byte("hello"))
		_, err = conn.Read(make([]byte, 10))
		return err == nil
	}
	if host, _, err := net.SplitHostPort(target); err != nil || !isIP(host) {
		return false
	}
	return w.reachesTCP(target)
}

func isIP(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

// startStranger starts a node that is no router of the service, and may serve routes.
func (w *world) startStranger() {
	w.t.Helper()
	host := w.net.Host("stranger")
	w.internet.Plug(host, "eth0", "192.168.77.40/24")
	dir := w.t.TempDir()
	cmd := host.Command(context.WithoutCancel(w.t.Context()), binary("tailscaled"), "--statedir="+dir, "--socket="+dir+"/s.sock", "--tun=userspace-networking", "--port=41641")
	cmd.Env = tailnettest.Env()
	start(w.t, "stranger", cmd)
	tailscale(w.t, dir+"/s.sock", "up", "--login-server="+w.control.ControlURL(), "--auth-key="+w.clientKey.Reveal(), "--hostname=stranger", "--timeout=30s")
}
