package router

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"testing"

	"subnetrouter/internal/forward"
	"subnetrouter/internal/ops"
	"subnetrouter/internal/routertest"
	"subnetrouter/internal/why"
)

// TestWhyProbesRoutes: the router connects to no address that it has no route to.
func TestWhyProbesRoutes(t *testing.T) {
	r := &Router{}
	target := netip.MustParseAddr("10.0.3.4")
	for _, route := range []why.Route{{Prefix: netip.MustParsePrefix("10.9.0.0/16")}, {Prefix: netip.MustParsePrefix("10.0.0.0/16"), Refused: "denied"}} {
		f := why.Facts{Question: why.Question{Protocol: why.TCP, Port: 5432}, Address: target, Target: target, Routes: why.Know([]why.Route{route})}
		if got := r.probeOnce(t.Context(), f); got.Outcome != "" || got.Err == "" { // it would need a data path
			t.Errorf("%+v: %+v", route, got)
		}
	}
}

// TestOutcomes: an error of the system's is no answer of the network.
func TestOutcomes(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want why.Outcome
	}{
		{nil, why.Answered},
		{fmt.Errorf("pinging: %w", syscall.EACCES), why.Unreachable},
		{fmt.Errorf("pinging: %w: %w", forward.ErrNoPing, syscall.EACCES), ""},
		{fmt.Errorf("pinging: %w: %w", forward.ErrNoPing, syscall.EPERM), ""},
		{syscall.ECONNREFUSED, why.Refused},
		{context.DeadlineExceeded, why.Silent},
		{errors.New("other"), why.Failed},
	} {
		if got := outcomeOf(tc.err); got != tc.want {
			t.Errorf("%v: got %q, want %q", tc.err, got, tc.want)
		}
	}
}

// TestWhyReads: the reads of one answer do not race, which the race detector sees.
func TestWhyReads(t *testing.T) {
	r := start(t, routertest.New(t), Options{
		Resolve: func(string, netip.AddrPort) (netip.AddrPort, error) {
			return netip.AddrPort{}, errors.New("not dialed")
		},
		DenyDial: func(netip.AddrPort) bool { return false },
	})
	ctx := context.WithoutCancel(t.Context()) // the lock of one that can be canceled would order the reads
	for range 10 {
		got, err := r.why(ctx, ops.WhyQuestion{Target: "10.0.3.4:5432"})
		if err != nil {
			t.Fatal(err)
		}
		if s := got.(why.Answer).Steps; s[len(s)-1].Name != "probe" {
			t.Errorf("the last step is %+v", s[len(s)-1])
		}
	}
}
