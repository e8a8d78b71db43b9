package tailnet

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"subnetrouter/internal/netfilter"
	"subnetrouter/internal/netnstest"
)

// TestRulesEnd: no rule is left after the end, whatever still sets some. Without a use of them, those of another router of
// the host stay.
func TestRulesEnd(t *testing.T) {
	netnstest.Require(t)
	host := netnstest.New(t).Host("host")
	there := func() bool {
		t.Helper()
		out, err := host.Command(t.Context(), "nft", "list", "tables").CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return bytes.Contains(out, []byte("subnetrouter"))
	}
	f := netfilter.Forward{Device: tunName, Target: netip.MustParseAddr("100.64.0.1"), From: netip.MustParseAddr("100.64.0.5"), FirstPort: 50000, LastPort: 50999}
	host.Do(func() error {
		var one, other rules
		if err := one.open(); err != nil {
			t.Error(err)
		}
		if err := one.set(f); err != nil || !there() {
			t.Errorf("set: %v; a table: %t", err, there())
		}
		if err := other.end(); err != nil || !there() {
			t.Errorf("the end of rules that were not used: %v; a table: %t", err, there())
		}
		if err := one.end(); err != nil || there() {
			t.Errorf("the end: %v; a table: %t", err, there())
		}
		if err := one.set(f); err == nil || there() {
			t.Errorf("set after the end: %v; a table: %t", err, there())
		}
		return nil
	})
}

// TestAllPortsBeforeJoin: without addresses of its own, the node looks nothing up, and reports no failure.
func TestAllPortsBeforeJoin(t *testing.T) {
	netnstest.Require(t)
	host := netnstest.New(t).Host("host")
	var log bytes.Buffer
	n := &Node{log: slog.New(slog.NewTextHandler(&log, nil)), started: make(chan struct{})}
	n.state.init()
	for name, draining := range map[string]chan struct{}{"joining": make(chan struct{}), "draining": closedChannel()} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		err := host.Do(func() error { return n.ForwardAll(ctx, draining, "db", func() []uint16 { return nil }) })
		if err != nil || ctx.Err() == nil || log.Len() > 0 {
			t.Errorf("%s: %v, %v; log: %s", name, err, ctx.Err(), &log)
		}
	}
}

func closedChannel() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// TestAllPortsRepair: rules that another program flushes are set again, with a line in the log.
func TestAllPortsRepair(t *testing.T) {
	netnstest.Require(t)
	host := netnstest.New(t).Host("host")
	var log bytes.Buffer
	n := &Node{log: slog.New(slog.NewTextHandler(&log, nil))}
	f := newAllPorts(n, "db")
	f.find = func(_ context.Context, network, _ string, _ netip.Addr) (netfilter.Forward, error) {
		a := netip.MustParseAddr(map[string]string{"tcp4": "100.64.0.1", "tcp6": "fd7a::1"}[network])
		return netfilter.Forward{Device: tunName, Target: a, From: a.Next(), FirstPort: 50000, LastPort: 50999}, nil
	}
	follow := func() { host.Do(func() error { f.follow(t.Context(), nil); return nil }) }
	follow()
	if out, err := host.Command(t.Context(), "nft", "flush", "ruleset").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	log.Reset()
	follow()
	out, err := host.Command(t.Context(), "nft", "list", "tables").CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("ip subnetrouter")) || !bytes.Contains(out, []byte("ip6 subnetrouter")) {
		t.Errorf("after the flush: %v: %s", err, out)
	}
	if got := bytes.Count(log.Bytes(), []byte("another program removed")); got != 2 {
		t.Errorf("%d lines for two families: %s", got, &log)
	}
	log.Reset()
	if follow(); log.Len() > 0 {
		t.Errorf("a log without a change: %s", &log)
	}
}
