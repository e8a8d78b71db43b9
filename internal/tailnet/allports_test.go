package tailnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"subnetrouter/internal/netfilter"
)

// TestAllPortsReports: each family that cannot be forwarded is reported once, except that a target of one family has no
// address of the other.
func TestAllPortsReports(t *testing.T) {
	absent := fmt.Errorf("the name has %w", errNoAddress)
	denied := errors.New("denied")
	for _, c := range []struct {
		name   string
		ip4    error
		ip6    error
		before bool // both families have a target
		want   string
	}{
		{"both", nil, nil, false, ""},
		{"a target without IPv6", nil, absent, false, ""},
		{"a target without IPv4", absent, nil, false, ""},
		{"no such name", absent, absent, false, "IPv4 IPv6"},
		{"IPv6 is denied", nil, denied, false, "IPv6"},
		{"IPv4 is denied, and the target has no IPv6", denied, absent, false, "IPv4"},
		{"an address that is gone", nil, absent, true, "IPv6"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var log bytes.Buffer
			fails := false
			f := &allPorts{host: "db", log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn})),
				replace: func(netfilter.Forward) error { return nil }, present: always, publish: func(AllPorts) {},
				find: func(_ context.Context, network, _ string, _ netip.Addr) (netfilter.Forward, error) {
					err, target := c.ip4, "100.64.0.1"
					if network == "tcp6" {
						err, target = c.ip6, "fd7a::1"
					}
					if !fails {
						err = nil
					}
					return netfilter.Forward{Target: netip.MustParseAddr(target)}, err
				}}
			if c.before {
				f.follow(t.Context(), nil)
			}
			fails = true
			f.follow(t.Context(), nil)
			f.follow(t.Context(), nil)
			var got []string
			for line := range strings.Lines(log.String()) {
				_, rest, _ := strings.Cut(line, " family=")
				family, _, _ := strings.Cut(rest, " ")
				got = append(got, family)
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("logged families %q, want %q: %s", got, c.want, &log)
			}
		})
	}
}

// TestAllPortsPublishes: the state has the forwarded targets and the failure. A target of one family is no failure, and one that
// is no longer found stays forwarded.
func TestAllPortsPublishes(t *testing.T) {
	const ip4, ip6 = "100.64.0.1", "fd7a::1"
	absent := fmt.Errorf("db has %w", errNoAddress)
	denied := errors.New("denied")
	var now AllPorts
	answers := map[string]error{}
	f := &allPorts{host: "db", log: slog.New(slog.DiscardHandler), replace: func(netfilter.Forward) error { return nil }, present: always,
		publish: func(s AllPorts) { now = s },
		find: func(_ context.Context, network, _ string, _ netip.Addr) (netfilter.Forward, error) {
			return netfilter.Forward{Target: netip.MustParseAddr(map[string]string{"tcp4": ip4, "tcp6": ip6}[network])}, answers[network]
		}}
	for _, step := range []struct {
		name     string
		err4     error
		err6     error
		want     string
		failures []error
	}{
		{"no such name", absent, absent, "[]", []error{errNoAddress}},
		{"IPv4 is denied", denied, absent, "[]", []error{denied}},
		{"a target without IPv6", nil, absent, "[100.64.0.1]", nil},
		{"a target with both", nil, nil, "[100.64.0.1 fd7a::1]", nil},
		{"gone", absent, absent, "[100.64.0.1 fd7a::1]", []error{errNoAddress}},
		{"back", nil, nil, "[100.64.0.1 fd7a::1]", nil},
	} {
		answers["tcp4"], answers["tcp6"] = step.err4, step.err6
		f.follow(t.Context(), nil)
		if got := fmt.Sprint(now.Targets); got != step.want || (now.Err == nil) != (step.failures == nil) {
			t.Errorf("%s: forwarded to %s, %v; want %s and %v", step.name, got, now.Err, step.want, step.failures)
		}
		for _, want := range step.failures {
			if !errors.Is(now.Err, want) {
				t.Errorf("%s: %v, want %v", step.name, now.Err, want)
			}
		}
	}
}

// TestAllPortsSetFails: a family whose rules the kernel refuses is reported, and set again; the other one is forwarded.
func TestAllPortsSetFails(t *testing.T) {
	var log bytes.Buffer
	tries := map[string]int{}
	f := &allPorts{host: "db", log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn})),
		replace: func(f netfilter.Forward) error {
			tries[f.Target.String()]++
			if f.Target.Is4() {
				return errors.New("refused")
			}
			return nil
		},
		present: always, publish: func(AllPorts) {},
		find: func(_ context.Context, network, _ string, _ netip.Addr) (netfilter.Forward, error) {
			return netfilter.Forward{Target: netip.MustParseAddr(map[string]string{"tcp4": "100.64.0.1", "tcp6": "fd7a::1"}[network])}, nil
		}}
	f.follow(t.Context(), nil)
	f.follow(t.Context(), nil)
	if tries["100.64.0.1"] != 2 || tries["fd7a::1"] != 1 || strings.Count(log.String(), "IPv4") != 1 || strings.Contains(log.String(), "IPv6") {
		t.Errorf("tries %v; log: %s", tries, &log)
	}
}

// TestAllPortsFlushed: after another program has removed the rules, and while the kernel refuses them, ports were still forwarded
// once, and the failure is the kernel's.
func TestAllPortsFlushed(t *testing.T) {
	var log bytes.Buffer
	var now AllPorts
	there, refused := true, errors.New("operation not permitted")
	var replaced error
	f := &allPorts{host: "db", log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn})),
		replace: func(netfilter.Forward) error { return replaced },
		present: func(netip.Addr) (bool, error) { return there, nil },
		publish: func(s AllPorts) { now = s },
		find: func(_ context.Context, network, _ string, _ netip.Addr) (netfilter.Forward, error) {
			if network == "tcp6" {
				return netfilter.Forward{}, errNoAddress
			}
			return netfilter.Forward{Target: netip.MustParseAddr("100.64.0.1")}, nil
		}}
	for _, step := range []struct {
		name     string
		replaced error
		there    bool
		targets  int
		once     bool
	}{
		{"refused from the start", refused, true, 0, false},
		{"set", nil, true, 1, true},
		{"flushed, and refused", refused, false, 0, true},
		{"still refused", refused, false, 0, true},
		{"set again", nil, true, 1, true},
	} {
		replaced, there = step.replaced, step.there
		f.follow(t.Context(), nil)
		if len(now.Targets) != step.targets || now.Once != step.once || errors.Is(now.Err, ErrRulesRefused) != (step.replaced != nil) || !errors.Is(now.Err, step.replaced) {
			t.Errorf("%s: %+v", step.name, now)
		}
	}
	if n := strings.Count(log.String(), "let no other program change nftables"); n != 2 {
		t.Errorf("%d lines name the kernel's refusal, want 2: %s", n, &log)
	}
}

// TestAllPortsStillHas: an address stays if the name's servers rotate it, but not if the name was MagicDNS's.
func TestAllPortsStillHas(t *testing.T) {
	a, b, c := netip.MustParseAddr("100.64.0.1"), netip.MustParseAddr("100.64.0.2"), netip.MustParseAddr("100.64.0.3")
	for _, tt := range []struct {
		name  string
		addrs []netip.Addr
		err   error
		want  bool
	}{
		{"rotated", []netip.Addr{b, a}, nil, true},
		{"IPv4-mapped", []netip.Addr{b, netip.AddrFrom16(a.As16())}, nil, true},
		{"gone", []netip.Addr{b, c}, nil, false},
		{"another name than MagicDNS's", []netip.Addr{a}, nil, false},
		{"no answer", nil, errors.New("timeout"), false},
	} {
		lookUp := func(_ context.Context, network, host string) ([]netip.Addr, error) {
			if network != "ip4" || host != "db" {
				t.Errorf("%s: looked up %s of %s", tt.name, network, host)
			}
			return tt.addrs, tt.err
		}
		if got := stillHas(t.Context(), lookUp, "tcp4", "db", b, a); got != tt.want {
			t.Errorf("%s: %t", tt.name, got)
		}
	}
}

func always(netip.Addr) (bool, error) { return true, nil }
