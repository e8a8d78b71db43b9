package tailnet

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"
)

// TestConfirmsRoutes runs against control servers that send no self update when routes
// change.
func TestConfirmsRoutes(t *testing.T) {
	for _, own := range []tailnettest.OwnNode{tailnettest.AfterUpdates, tailnettest.InFirst} {
		t.Run(string(own), func(t *testing.T) {
			t.Run("approved at once", func(t *testing.T) {
				control := startTailnet(t, func(c *tailnettest.Config) { c.OwnNode = own })
				n := startNode(t, control, give(testKey), nil)
				n.Advertise(testRoutes)
				awaitStatus(t, n, "the approval", serving)
				ctx, cancel := context.WithTimeout(t.Context(), testwait.Limit())
				defer cancel()
				if err := n.Withdraw(ctx); err != nil {
					t.Error(err)
				}
			})
			t.Run("approved by hand", func(t *testing.T) {
				control := startTailnet(t, func(c *tailnettest.Config) { c.OwnNode, c.Policy.AutoApprovers = own, nil })
				n := startNode(t, control, give(testKey), nil)
				n.Advertise(testRoutes)
				awaitStatus(t, n, "the announcement", func(s *Status) bool { return len(s.Unapproved()) == len(testRoutes) })
				if err := control.Approve(t.Context(), "edge", testRoutes...); err != nil {
					t.Fatal(err)
				}
				awaitStatus(t, n, "the approval", serving)
			})
		})
	}
}

// TestStandbyIsApproved runs two routers of one VPC at a control server that reports routes
// only to their primary. The second one takes over when the first one leaves.
func TestStandbyIsApproved(t *testing.T) {
	control := startTailnet(t, func(c *tailnettest.Config) { c.OwnNode = tailnettest.AfterUpdates })
	first := startNode(t, control, give(testKey), nil)
	first.Advertise(testRoutes)
	awaitStatus(t, first, "the routes", serving)
	second := startNode(t, control, give(testKey), nil)
	second.Advertise(testRoutes)
	awaitStatus(t, second, "the announcement", func(s *Status) bool { return len(s.Advertised) > 0 })
	s, _ := second.Status()
	for begun := time.Now(); len(s.Unapproved()) > 0; s, _ = second.Status() {
		if time.Since(begun) > testwait.Limit() {
			t.Fatalf("waited %v for the approval; status %+v", testwait.Limit(), s)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if len(s.Primary) > 0 {
		t.Errorf("the second router is primary for %v", s.Primary)
	}
	ctx, cancel := context.WithTimeout(t.Context(), testwait.Limit())
	defer cancel()
	if err := first.Withdraw(ctx); err != nil {
		t.Fatal(err)
	}
	awaitStatus(t, second, "the routes to move", serving)
}

func TestStandby(t *testing.T) {
	a, b := netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("10.1.0.0/16")
	both := []netip.Prefix{a, b}
	for _, tc := range []struct {
		name  string
		peers []TaggedPeer
		want  []netip.Prefix
	}{
		{"alone", nil, nil},
		{"primary", []TaggedPeer{{Routes: both, Online: true}}, both},
		{"primary for one", []TaggedPeer{{Online: true}, {Routes: both[1:], Online: true}}, both[1:]},
		{"offline", []TaggedPeer{{Routes: both}}, nil},
		{"another route", []TaggedPeer{{Routes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Online: true}}, nil},
	} {
		if got := standby(both, tc.peers); !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestAsks(t *testing.T) {
	const (
		s = time.Second
		m = time.Minute
	)
	var (
		both = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("10.1.0.0/16")}
		one  = both[:1]
	)
	type change struct {
		at time.Duration
		f  func(*Status)
	}
	advertise := func(routes []netip.Prefix) func(*Status) { return func(s *Status) { s.setAdvertised(routes, nil) } }
	netmap := func(approved []netip.Prefix) func(*Status) {
		return func(s *Status) {
			s.Approved, s.elected, s.selfUpdates = approved, approved, s.selfUpdates+1
			s.setPrimary()
		}
	}
	for _, tc := range []struct {
		name    string
		changes []change
		until   time.Duration
		want    []time.Duration // without jitter
		updates int             // the number of these that are updates; the others are polls
	}{
		{"confirmed without a question", []change{{0, advertise(both)}, {s, netmap(both)}}, 25 * m, []time.Duration{10*m + s, 20*m + s}, 2},
		{"never confirmed", []change{{0, advertise(both)}}, 40 * m, []time.Duration{
			2 * s, 6 * s, 14 * s, 30 * s, 62 * s, 126 * s, 254 * s, 510 * s, 1022 * s, 1622 * s, 2222 * s,
		}, 1},
		{"in part, then by hand", []change{{0, advertise(both)}, {s, netmap(one)}, {10 * s, netmap(both)}}, 9 * m, []time.Duration{2 * s, 6 * s}, 1},
		{"answers are no hints", []change{{0, advertise(both)}, {3 * s, netmap(nil)}, {7 * s, netmap(nil)}}, 20 * s, []time.Duration{2 * s, 6 * s, 14 * s}, 1},
		{"hints", []change{{0, advertise(both)}, {20 * m, netmap(nil)}, {20*m + 10*s, netmap(nil)}}, 22 * m, []time.Duration{
			2 * s, 6 * s, 14 * s, 30 * s, 62 * s, 126 * s, 254 * s, 510 * s, 1022 * s, 20*m + s, 20*m + 11*s,
		}, 3},
		{"another announcement", []change{{0, advertise(one)}, {10 * s, advertise(both)}}, 13 * s, []time.Duration{2 * s, 6 * s, 12 * s}, 2},
		{"a withdrawal", []change{{0, advertise(both)}, {s, netmap(both)}, {m, advertise(one)}, {m + 3*s, netmap(one)}}, 2 * m, []time.Duration{m + 2*s}, 1},
		{"offline", []change{{0, advertise(both)}, {s, func(s *Status) { s.Backend = "NeedsLogin" }}}, 2 * m, nil, 0},
		{"removed", []change{{0, advertise(both)}, {s, func(s *Status) { s.Removed = true }}}, 2 * m, nil, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			start := time.Unix(1800000000, 0)
			status := Status{Backend: "Running", IPs: []netip.Addr{netip.MustParseAddr("100.64.0.1")}}
			var a askSchedule
			var got []time.Duration
			var polls int
			for at := time.Duration(0); at <= tc.until; at += 250 * time.Millisecond {
				for _, c := range tc.changes {
					if c.at == at {
						c.f(&status)
					}
				}
				now := start.Add(at)
				before := a.due
				due := a.next(now, &status)
				if !due.Equal(before) && a.interval == 0 && !due.IsZero() {
					a.due = now.Add(maxAskInterval)
					due = a.due
				}
				if !due.IsZero() && !due.After(now) {
					got = append(got, at)
					if a.asked(now) {
						polls++
					}
					a.due = now.Add(cmp.Or(a.interval, maxAskInterval))
				}
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("asked at %v, want %v", got, tc.want)
			}
			if updates := len(got) - polls; updates != tc.updates {
				t.Errorf("asked by %d updates, want %d", updates, tc.updates)
			}
		})
	}
}
