package tailnettest

import (
	"maps"
	"net/netip"
	"testing"
	"time"

	"tailscale.com/tailcfg"
)

func TestAutoApproves(t *testing.T) {
	p := Policy{AutoApprovers: map[string][]netip.Prefix{routerTag: {vpc}}, ApproveWhen: WhenReachable}
	for _, tt := range []struct {
		name      string
		tags      []string
		reachable bool
		route     netip.Prefix
		want      bool
	}{
		{"exact", []string{"tag:x", routerTag}, true, vpc, true},
		{"within", []string{routerTag}, true, subnet, true},
		{"wider", []string{routerTag}, true, netip.MustParsePrefix("10.0.0.0/8"), false},
		{"elsewhere", []string{routerTag}, true, other, false},
		{"other tag", []string{"tag:x"}, true, vpc, false},
		{"no tag", nil, true, vpc, false},
		{"not reachable", []string{routerTag}, false, vpc, false},
	} {
		if got := p.autoApproves(tt.tags, tt.reachable, tt.route); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
	p.ApproveWhen = ""
	if !p.autoApproves([]string{routerTag}, false, vpc) {
		t.Error("by default, approval waits for reachability")
	}
}

func TestElect(t *testing.T) {
	const grace = time.Second
	now := time.Unix(1000, 0)
	on := func(id tailcfg.NodeID, routes ...netip.Prefix) candidate {
		return candidate{id: id, routes: routes, online: true}
	}
	off := func(id tailcfg.NodeID, since time.Duration, routes ...netip.Prefix) candidate {
		return candidate{id: id, routes: routes, offline: now.Add(-since)}
	}
	type result = map[netip.Prefix]tailcfg.NodeID
	for _, tt := range []struct {
		name    string
		nodes   []candidate
		current result
		want    result
		again   time.Duration // from now; 0: never
	}{
		{"oldest first", []candidate{on(1, vpc), on(2, vpc)}, nil, result{vpc: 1}, 0},
		{"per route", []candidate{on(1, vpc), on(2, vpc, other)}, nil, result{vpc: 1, other: 2}, 0},
		{"an older one does not push aside", []candidate{on(1, vpc), on(2, vpc)}, result{vpc: 2}, result{vpc: 2}, 0},
		{"within the grace", []candidate{off(1, grace/4, vpc), on(2, vpc)}, result{vpc: 1}, result{vpc: 1}, grace * 3 / 4},
		{"past the grace", []candidate{off(1, grace, vpc), on(2, vpc)}, result{vpc: 1}, result{vpc: 2}, 0},
		{"withdrawn", []candidate{on(1, other), on(2, vpc)}, result{vpc: 1}, result{vpc: 2, other: 1}, 0},
		{"withdrawn while offline", []candidate{off(1, 0), on(2, vpc)}, result{vpc: 1}, result{vpc: 2}, 0},
		{"removed", []candidate{on(2, vpc)}, result{vpc: 1}, result{vpc: 2}, 0},
		{"nobody else", []candidate{off(1, 2*grace, vpc)}, result{vpc: 1}, result{vpc: 1}, 0},
		{"nobody left", nil, result{vpc: 1}, result{}, 0},
		{"an offline node is never elected", []candidate{off(1, 0, vpc)}, nil, result{}, 0},
		{"the earliest grace counts", []candidate{off(1, grace/4, vpc), off(2, grace/2, other), on(3, vpc, other)},
			result{vpc: 1, other: 2}, result{vpc: 1, other: 2}, grace / 2},
	} {
		got, again := elect(now, grace, tt.nodes, tt.current)
		if !maps.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
		want := time.Time{}
		if tt.again != 0 {
			want = now.Add(tt.again)
		}
		if !again.Equal(want) {
			t.Errorf("%s: again at %v, want %v", tt.name, again, want)
		}
	}
}
