package router

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"subnetrouter/internal/access"
	"subnetrouter/internal/bootstrap"
	"subnetrouter/internal/bootstrap/targets"
	"subnetrouter/internal/ops"
	"subnetrouter/internal/packet"
	"subnetrouter/internal/tailnet"
	"subnetrouter/internal/why"

	"github.com/prometheus/client_golang/prometheus"
)

// TestPolicyCache: rules are read again after a change of any and after a while, each client's on its own, and
// parsed again only if they have changed.
func TestPolicyCache(t *testing.T) {
	var c policyCache
	reads, parses := 0, 0
	rules := []string{`{"cidrs":["10.0.0.0/8"]}`}
	read := func(netip.Addr) []string { reads++; return slices.Clone(rules) }
	parse := func(values []string) *access.Policy { parses++; return access.Parse(values) }
	counted := func(step string, wantReads, wantParses int) {
		t.Helper()
		if reads != wantReads || parses != wantParses {
			t.Errorf("%s: %d reads and %d parses, want %d and %d", step, reads, parses, wantReads, wantParses)
		}
	}
	client, other := netip.MustParseAddr("100.64.0.2"), netip.MustParseAddr("100.64.0.3")
	for _, version := range []uint64{1, 1, 2, 2} {
		c.get(client, version, read, parse)
	}
	counted("two versions of the same rules", 2, 1)
	rules = []string{`{"cidrs":["10.1.0.0/16"]}`}
	if c.get(client, 3, read, parse).Decide(nil, access.Flow{Target: netip.MustParseAddrPort("10.2.0.1:1")}) != nil {
		t.Error("a rule that was removed allows a flow")
	}
	counted("a change", 3, 2)
	// A policy that was read while the rules changed does not count as one of the new rules.
	c.get(other, 3, func(a netip.Addr) []string {
		old := read(a)
		rules = nil
		c.get(other, 4, read, parse)
		return old
	}, parse)
	if got := c.policies[other]; got.version != 4 || len(got.values) != 0 {
		t.Errorf("a policy of older rules is kept: %+v", got)
	}
	counted("a change meanwhile", 5, 4)
	old := c.policies[other]
	old.since = old.since.Add(-2 * policyAge)
	c.policies[other] = old
	c.get(client, 3, read, parse)
	counted("another client's old policy", 5, 4)
	c.get(other, 4, read, parse)
	c.get(other, 4, read, parse)
	counted("an old policy", 6, 4)
	for n := range maxPolicies + 10 {
		c.get(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 4, read, parse)
	}
	if len(c.policies) != maxPolicies {
		t.Errorf("%d policies are kept", len(c.policies))
	}
}

// BenchmarkPolicyCache gets the policy of a client with 1,000 rules: kept, and compared with the rules.
func BenchmarkPolicyCache(b *testing.B) {
	var values []string
	for n := range 1000 {
		values = append(values, fmt.Sprintf(`{"securityGroups":["sg-%d"],"tags":{"env":"prod"},"ports":["tcp:5432"]}`, n))
	}
	// Control's rules are read from a netmap as new strings.
	read := func(netip.Addr) []string {
		list := make([]string, len(values))
		for n, v := range values {
			list[n] = strings.Clone(v)
		}
		return list
	}
	client := netip.MustParseAddr("100.64.0.2")
	b.Run("kept", func(b *testing.B) {
		var c policyCache
		for b.Loop() {
			c.get(client, 1, read, access.Parse)
		}
	})
	b.Run("compared", func(b *testing.B) {
		var c policyCache
		version := uint64(0)
		for b.Loop() {
			version++
			c.get(client, version, read, access.Parse)
		}
	})
	b.Run("parsed", func(b *testing.B) {
		for b.Loop() {
			access.Parse(read(client))
		}
	})
}

// TestDenialLog: a denial is logged once per interval, the memory of them is bounded, and a full queue blocks no caller.
func TestDenialLog(t *testing.T) {
	var out strings.Builder
	l := newDenialLog(slog.New(slog.NewTextHandler(&out, nil)), true, func(netip.Addr) tailnet.Peer { return tailnet.Peer{Node: "laptop"} },
		func(netip.Addr, access.Flow) access.Explanation {
			return access.Explanation{Reasons: []string{"1", "2", "3", "4", "5", "six"}}
		})
	d := denial{netip.MustParseAddr("100.64.0.2"), access.Flow{Protocol: access.TCP, Target: netip.MustParseAddrPort("10.0.3.4:5432")}}
	now := time.Now()
	l.remember(d, now)
	if l.isNew(d, now.Add(denialInterval-1)) || !l.isNew(d, now.Add(denialInterval)) {
		t.Error("a denial is not logged once per interval")
	}
	l.write(d)
	l.write("rule {} is ignored")
	for _, want := range []string{"access would be denied", "node=laptop", "10.0.3.4:5432", "a rule of a grant is ignored"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the log lacks %q: %s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "six") {
		t.Error("all reasons are logged")
	}
	for n := range 2*denialQueue + maxDenials {
		client := netip.AddrFrom4([4]byte{100, 64, byte(n >> 8), byte(n)})
		l.add(denial{client, d.flow})
		l.malformed([]string{fmt.Sprint(n)})
	}
	if len(l.recently) > maxDenials || len(l.clients) > maxDenials {
		t.Errorf("%d denials of %d clients are remembered", len(l.recently), len(l.clients))
	}
	if len(l.queue) != denialQueue {
		t.Errorf("%d in the queue", len(l.queue))
	}
}

// TestDenialFlood: a client that retransmits or scans ports takes a bounded number of lines of both logs, and
// another client has its own.
func TestDenialFlood(t *testing.T) {
	flows := newFlowLog(slog.DiscardHandler, prometheus.NewRegistry(), nil)
	node := &rulesOf{}
	a := &accessControl{node: node, targets: bootstrap.New(bootstrap.Config{}).FollowTargets(targets.Follow{}), flowLog: flows}
	a.denials = newDenialLog(slog.New(slog.DiscardHandler), false, nil, nil)
	a.denied, a.malformed = prometheus.NewCounter(prometheus.CounterOpts{}), prometheus.NewCounter(prometheus.CounterOpts{})
	flood := func(client, target string, ports int) {
		for range 100 {
			for port := range ports {
				if !a.admit(packet.ProtoUDP, netip.MustParseAddrPort(client), netip.AddrPortFrom(netip.MustParseAddr(target), uint16(1+port))).Refused {
					t.Fatal("a flow without a rule is let through")
				}
			}
		}
	}
	flood("100.64.0.2:999", "10.0.3.4", 1)
	if len(flows.flows) != 1 || len(a.denials.queue) != 1 {
		t.Errorf("%d and %d lines for one target", len(flows.flows), len(a.denials.queue))
	}
	flood("100.64.0.2:999", "10.0.3.4", 1000)
	if len(flows.flows) != maxClientDenials || len(a.denials.queue) != maxClientDenials {
		t.Errorf("%d and %d lines for a scan, want %d", len(flows.flows), len(a.denials.queue), maxClientDenials)
	}
	flood("100.64.0.3:999", "10.0.3.4", 1)
	if len(flows.flows) != maxClientDenials+1 {
		t.Error("the flood of one client keeps the denial of another out of the log")
	}
}

// rulesOf is a source of the same rules for all clients.
type rulesOf struct {
	values  []string
	version uint64
	asked   int
}

func (r *rulesOf) AccessRules(netip.Addr) []string { return slices.Clone(r.values) }
func (r *rulesOf) RulesVersion() uint64            { return r.version }
func (r *rulesOf) AccessPeers() (int, []string) {
	r.asked++
	return 2, slices.Clone(r.values)
}

// TestAccessStatus: the status has the mode, the last good look-up with the error of the newest, the rules of all
// peers, the decisions and the last denials.
func TestAccessStatus(t *testing.T) {
	var none *accessControl
	if got := none.status(); got != nil {
		t.Errorf("without ROUTER_ACCESS: %+v", got)
	}
	node := &rulesOf{values: []string{`{"cidrs":["10.0.0.0/24"]}`, `{"cidrs":["10.1.0.0/16"]}`, `{}`}, version: 1}
	a := &accessControl{node: node, report: true, targets: bootstrap.New(bootstrap.Config{}).FollowTargets(targets.Follow{
		Around: func(look func() error) error { return look() },
	})}
	a.denials = newDenialLog(slog.New(slog.DiscardHandler), true, func(netip.Addr) tailnet.Peer { return tailnet.Peer{Node: "laptop"} }, a.explain)
	a.allowed, a.denied, a.malformed = prometheus.NewCounter(prometheus.CounterOpts{}), prometheus.NewCounter(prometheus.CounterOpts{}), prometheus.NewCounter(prometheus.CounterOpts{})
	client := netip.MustParseAddrPort("100.64.0.2:999")
	for n := range maxListedDenials + 5 {
		a.admit(packet.ProtoTCP, client, netip.AddrPortFrom(netip.MustParseAddr("10.0.3.4"), uint16(1+n)))
		a.admit(packet.ProtoTCP, client, netip.MustParseAddrPort("10.0.0.4:443"))
	}
	for len(a.denials.queue) > 0 {
		a.denials.write(<-a.denials.queue)
	}
	got := a.status()
	if got.Mode != "report" || got.Peers != 2 || got.Rules != 2 || got.Malformed != 1 || got.Allowed != maxListedDenials+5 || got.Denied != maxListedDenials+5 || !got.LookedUp.IsZero() {
		t.Errorf("got %+v", got)
	}
	last := ops.Denial{Protocol: "tcp", Client: "100.64.0.2", Node: "laptop", Target: fmt.Sprintf("10.0.3.4:%d", maxListedDenials+5)}
	if n := len(got.Denials); n != maxListedDenials {
		t.Fatalf("%d denials, want %d", n, maxListedDenials)
	}
	first := got.Denials[0]
	if first.Time.IsZero() {
		t.Error("no time")
	}
	if first.Time, first.Interface = (time.Time{}), ""; first != last {
		t.Errorf("the newest denial is %+v, want %+v", first, last)
	}
	// The rules of all peers are read again only after a change, or a while.
	a.status()
	if node.asked != 1 {
		t.Errorf("the rules were read %d times", node.asked)
	}
	node.version, node.values, a.report = 2, nil, false
	if got := a.status(); got.Mode != "grants" || got.Rules != 0 || got.Malformed != 0 {
		t.Errorf("after a change: %+v", got)
	}
	// A look-up that fails is shown, next to the last good one.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	a.targets.Run(ctx)
	if got := a.status(); got.Error == "" || got.Targets != 0 {
		t.Errorf("after a failed look-up: %+v", got)
	}
}

// TestWhyAccess: a node that the packet filter stops has no decision, though a rule would allow its flow.
func TestWhyAccess(t *testing.T) {
	a := &accessControl{node: &rulesOf{values: []string{`{"cidrs":["10.0.0.0/8"]}`}}, targets: bootstrap.New(bootstrap.Config{}).FollowTargets(targets.Follow{})}
	a.denials = newDenialLog(slog.New(slog.DiscardHandler), false, nil, nil)
	a.malformed = prometheus.NewCounter(prometheus.CounterOpts{})
	target := netip.MustParseAddr("10.0.3.4")
	f := why.Facts{
		Question: why.Question{Protocol: why.TCP, Port: 5432, From: "someone"}, Address: target, Target: target,
		Filter: why.Know([]why.Entry{{Protocols: []uint8{6}, Sources: []netip.Prefix{netip.MustParsePrefix("100.64.0.7/32")}, Targets: []why.PortRange{{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Last: 65535}}}}),
		Clients: why.Know([]why.Client{
			{Node: "laptop", Addrs: []netip.Addr{netip.MustParseAddr("100.64.0.7")}}, {Node: "phone", Addrs: []netip.Addr{netip.MustParseAddr("100.64.0.8")}},
		}),
	}
	if got := a.why(f).Decisions; len(got) != 1 || got[0].Node != "laptop" || !got[0].Allowed {
		t.Errorf("decisions %+v, want one about laptop", got)
	}
}

// TestAccessInsideNAT64: the rules decide about the IPv4 address to which a NAT64 gateway sends a flow.
func TestAccessInsideNAT64(t *testing.T) {
	for rule, want := range map[string]bool{`{"cidrs":["::/0"]}`: false, `{"cidrs":["64:ff9b::/96"]}`: false, `{"cidrs":["10.0.3.4"]}`: true} {
		a := &accessControl{node: &rulesOf{values: []string{rule}}, targets: bootstrap.New(bootstrap.Config{}).FollowTargets(targets.Follow{})}
		a.denials = newDenialLog(slog.New(slog.DiscardHandler), false, nil, nil)
		a.malformed = prometheus.NewCounter(prometheus.CounterOpts{})
		got := a.decide(packet.ProtoTCP, netip.MustParseAddr("fd7a:115c:a1e0::2"), netip.MustParseAddrPort("[64:ff9b::a00:304]:5432"))
		if (got != nil) != want {
			t.Errorf("%s: got %v, want %v", rule, got, want)
		}
	}
}
