package router

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"subnetrouter/internal/ops"
	"subnetrouter/internal/routertest"
	"subnetrouter/internal/why"
)

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
