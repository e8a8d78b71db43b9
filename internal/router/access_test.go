package router

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"subnetrouter/internal/access"
	"subnetrouter/internal/tailnet"
)

// TestPolicyCache: a policy is read again after a change of the rules, and after a while.
func TestPolicyCache(t *testing.T) {
	var c policyCache
	reads := 0
	client := netip.MustParseAddr("100.64.0.2")
	read := func() *access.Policy { reads++; return access.Parse(nil) }
	for _, version := range []uint64{1, 1, 2, 2} {
		c.get(client, version, read)
	}
	if reads != 2 {
		t.Errorf("%d reads of two versions", reads)
	}
	// A policy that was read while the rules changed does not count as one of the new rules.
	c.get(netip.MustParseAddr("100.64.0.3"), 2, func() *access.Policy { c.get(client, 3, read); return access.Parse(nil) })
	if _, kept := c.policies[netip.MustParseAddr("100.64.0.3")]; kept || reads != 3 {
		t.Errorf("a policy of older rules is kept; %d reads", reads)
	}
	c.since = c.since.Add(-2 * policyAge)
	c.get(client, 3, read)
	if reads != 4 {
		t.Error("an old policy is not read again")
	}
	for n := range maxPolicies + 10 {
		c.get(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 3, read)
	}
	if len(c.policies) > maxPolicies {
		t.Errorf("%d policies are kept", len(c.policies))
	}
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
	if !l.isNew(d, now) || l.isNew(d, now.Add(denialInterval-1)) || !l.isNew(d, now.Add(denialInterval)) {
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
	for n := range maxDenials + 10 {
		l.isNew(fmt.Sprint(n), now)
	}
	if len(l.recently) > maxDenials {
		t.Errorf("%d denials are remembered", len(l.recently))
	}
	for range denialQueue + 10 {
		l.add(d)
		l.malformed([]string{"x"})
	}
	if len(l.queue) != denialQueue {
		t.Errorf("%d in the queue", len(l.queue))
	}
}
