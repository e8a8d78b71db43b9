package bootstrap_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"subnetrouter/internal/awstest"
	"subnetrouter/internal/bootstrap"
	"subnetrouter/internal/bootstrap/routesource"
)

// simulated is AWS inside a bubble of synctest, where there is no network: the
// SDK's requests reach the handlers directly.
type simulated struct {
	*aws
	start time.Time

	mu       sync.Mutex
	applieds []string // one element per call of Apply
	times    []time.Time
}

func (s *simulated) apply(ps []netip.Prefix) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.applieds = append(s.applieds, fmt.Sprint(ps))
	s.times = append(s.times, time.Now())
}

// applied returns the routes of each call of Apply, at the times of the calls.
func (s *simulated) applied() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.applieds)
}

func (s *simulated) at() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.times)
}

func (s *simulated) RoundTrip(r *http.Request) (*http.Response, error) {
	handler := http.Handler(s.Server)
	if strings.HasPrefix(r.URL.Path, "/v4/") {
		handler = s.Metadata
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return w.Result(), nil
}

// follow runs a Follower in a bubble. The servers are made outside of it.
func follow(t *testing.T, sources string, every time.Duration, story func(t *testing.T, s *simulated, f *routesource.Follower)) {
	a := start(t, fargate())
	t.Setenv("AWS_MAX_ATTEMPTS", "3")
	synctest.Test(t, func(t *testing.T) {
		s := &simulated{aws: a, start: time.Now()}
		c := a.config(sources)
		c.Transport = s
		ctx, cancel := context.WithCancel(t.Context())
		f := bootstrap.New(c).Follow(routesource.Follow{Every: every, Apply: s.apply})
		done := make(chan struct{})
		go func() {
			defer close(done)
			f.Run(ctx)
		}()
		synctest.Wait()
		story(t, s, f)
		cancel()
		<-done
	})
}

func (s *simulated) vpc(cidrs ...string) {
	var list []awstest.Association
	for i, c := range cidrs {
		list = append(list, awstest.Association{ID: fmt.Sprint("assoc-", i), Prefix: prefix(c)})
	}
	s.Server.Update(func(w *awstest.World) { w.VPCs = []awstest.VPC{{ID: "vpc-0aaa", CIDRs: list}} })
}

func (s *simulated) last() string { return s.applied()[len(s.applied())-1] }

// pass sleeps for n intervals plus the largest jitter.
func pass(d time.Duration, n int) {
	time.Sleep(time.Duration(n) * (d + d/10))
	synctest.Wait()
}

func TestFollowWithdrawsWhatIsMissingTwice(t *testing.T) {
	const every = 5 * time.Minute
	follow(t, "vpc", every, func(t *testing.T, s *simulated, f *routesource.Follower) {
		// lookUp waits for exactly one more look-up.
		lookUp := func() {
			t.Helper()
			for n := len(s.applied()); len(s.applied()) == n; {
				time.Sleep(time.Second)
				synctest.Wait()
			}
		}
		expect := func(want string) {
			t.Helper()
			if s.last() != "["+want+"]" {
				t.Errorf("applied %s, want [%s]", s.last(), want)
			}
		}
		expect("10.20.0.0/16 10.31.0.0/16 2a05:d018:7e1:a100::/56")

		s.vpc("10.20.0.0/16", "10.30.0.0/16")
		lookUp() // new routes are applied at once, missing ones stay
		expect("10.20.0.0/16 10.30.0.0/16 10.31.0.0/16 2a05:d018:7e1:a100::/56")
		if why := f.Now().Routes.SourceOf(prefix("10.31.0.0/16")); why != "vpc vpc-0aaa (vpc-cidr-assoc-2), missing: withdrawn unless the next look-up finds it" {
			t.Errorf("a missing route is explained as %q", why)
		}

		// Failures in between do not count.
		s.Server.Fail("ec2:DescribeVpcs", awstest.Down())
		pass(every, 12)
		if f.Now().Err == nil || len(f.Now().Routes.Advertise) != 4 {
			t.Errorf("after an hour of failures: %v, %v", f.Now().Err, f.Now().Routes.Advertise)
		}
		s.Server.Fail("ec2:DescribeVpcs", awstest.Failure{})
		lookUp()
		expect("10.20.0.0/16 10.30.0.0/16")

		s.vpc("10.20.0.0/16")
		lookUp()
		s.vpc("10.20.0.0/16", "10.30.0.0/16") // back in time
		lookUp()
		s.vpc("10.20.0.0/16") // and missing again, for the first time
		lookUp()
		expect("10.20.0.0/16 10.30.0.0/16")
		lookUp()
		expect("10.20.0.0/16")

		var changes []string
		for line := range strings.Lines(s.log.String()) {
			_, line, _ = strings.Cut(line, " level=")
			if !strings.Contains(line, "task metadata") {
				changes = append(changes, strings.TrimSpace(line))
			}
		}
		vpc := func(p, a string) string { return fmt.Sprintf("prefix=%s source=\"vpc vpc-0aaa (%s)\"", p, a) }
		const kept = `WARN msg="route missing; kept until the next look-up misses it, too" `
		want := []string{
			"INFO msg=\"route added\" " + vpc("10.20.0.0/16", "vpc-cidr-assoc-1"),
			"INFO msg=\"route added\" " + vpc("10.31.0.0/16", "vpc-cidr-assoc-2"),
			"INFO msg=\"route added\" " + vpc("2a05:d018:7e1:a100::/56", "vpc-cidr-assoc-4"),
			"WARN msg=\"route refused\" " + vpc("100.64.0.0/20", "vpc-cidr-assoc-3") + ` reason="Tailscale's own addresses, so clients would drop it; reach a VPC in this range by 4via6 or not at all"`,
			kept + vpc("10.31.0.0/16", "vpc-cidr-assoc-2"),
			kept + vpc("2a05:d018:7e1:a100::/56", "vpc-cidr-assoc-4"),
			"INFO msg=\"route added\" " + vpc("10.30.0.0/16", "assoc-1"),
			`ERROR msg="looking up routes failed; keeping the advertised routes" err="looking up source vpc of ROUTER_ROUTES: calling ec2:DescribeVpcs for VPC vpc-0aaa: ServiceUnavailable: The service is unavailable. Please try again shortly; AWS is failing in eu-west-1, see its health dashboard"`,
			`INFO msg="looking up routes works again"`,
			"INFO msg=\"route removed\" prefix=10.31.0.0/16 source=\"vpc vpc-0aaa (vpc-cidr-assoc-2), missing: withdrawn unless the next look-up finds it\"",
			"INFO msg=\"route removed\" prefix=2a05:d018:7e1:a100::/56 source=\"vpc vpc-0aaa (vpc-cidr-assoc-4), missing: withdrawn unless the next look-up finds it\"",
			kept + vpc("10.30.0.0/16", "assoc-1"),
			kept + vpc("10.30.0.0/16", "assoc-1"),
			"INFO msg=\"route removed\" prefix=10.30.0.0/16 source=\"vpc vpc-0aaa (assoc-1), missing: withdrawn unless the next look-up finds it\"",
		}
		for i := range changes {
			changes[i], _, _ = strings.Cut(changes[i], " failed_for=")
		}
		if !slices.Equal(changes, want) {
			t.Errorf("the log says\n%s\nwant\n%s", strings.Join(changes, "\n"), strings.Join(want, "\n"))
		}
	})
}

// TestFollowCallsForADay counts the AWS calls of one router in a day.
func TestFollowCallsForADay(t *testing.T) {
	const every = 5 * time.Minute
	follow(t, "vpc,peerings,pl-0123abcd", every, func(t *testing.T, s *simulated, f *routesource.Follower) {
		s.Server.Update(addNetwork)
		time.Sleep(time.Hour) // the first look-ups fail until now
		synctest.Wait()
		before, looks := len(s.Calls()), len(s.applied())
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		looks = len(s.applied()) - looks
		if looks < 285 || looks > 291 { // 288, with jitter of a tenth each
			t.Errorf("%d look-ups in a day, want about 288", looks)
		}
		perLook := map[string]int{}
		for _, call := range s.Calls()[before:] {
			perLook[call]++
		}
		want := map[string]int{
			"ec2:DescribeVpcs": 1, "ec2:DescribeRouteTables": 1,
			"ec2:DescribeVpcPeeringConnections": 2,     // pages
			"ec2:GetManagedPrefixListEntries":   2 * 2, // pages of two lists, one of the table's
		}
		for call, n := range want {
			if perLook[call] != n*looks {
				t.Errorf("%s: %d calls in %d look-ups, want %d in each", call, perLook[call], looks, n)
			}
		}
		if len(perLook) != len(want) {
			t.Errorf("calls %v, want only %v", perLook, want)
		}
		distinct := map[time.Duration]bool{}
		for i := len(s.at()) - looks + 1; i < len(s.at()); i++ {
			d := s.at()[i].Sub(s.at()[i-1])
			distinct[d] = true
			if d < every*9/10 || d > every*11/10 {
				t.Errorf("%v between two look-ups", d)
			}
		}
		if len(distinct) < looks/2 {
			t.Errorf("only %d distinct pauses in %d: no jitter", len(distinct), looks)
		}
	})
}

// TestFollowBacksOff has EC2 throttle a starting router for an hour: it must back off, and
// recover soon afterwards.
func TestFollowBacksOff(t *testing.T) {
	const every = 5 * time.Minute
	follow(t, "vpc", every, func(t *testing.T, s *simulated, f *routesource.Follower) {
		s.Server.Fail("ec2:DescribeVpcs", awstest.Throttled())
		// The SDK tries three times, so a look-up that begins last of all fails later.
		time.Sleep(every*11/10 + time.Minute)
		synctest.Wait()
		n := len(s.Calls())
		failing := f.Now()
		if failing.Err == nil || failing.Since.IsZero() || failing.Found.IsZero() {
			t.Errorf("throttled: %+v", failing)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if n = len(s.Calls()) - n; n < 100 || n > 240 { // three tries a minute or so
			t.Errorf("%d calls in an hour of throttling", n)
		}
		if now := f.Now(); now.Since != failing.Since {
			t.Errorf("failing since %v, then %v", failing.Since, now.Since)
		}
		s.Server.Fail("ec2:DescribeVpcs", awstest.Failure{})
		time.Sleep(90 * time.Second)
		synctest.Wait()
		if f.Now().Err != nil {
			t.Errorf("not back after 90 s: %v", f.Now().Err)
		}
	})
}

// TestFollowOnlyEverAppliesWholeAnswers runs a look-up with each kind of AWS failure.
func TestFollowOnlyEverAppliesWholeAnswers(t *testing.T) {
	follow(t, "vpc", 10*time.Second, func(t *testing.T, s *simulated, f *routesource.Follower) {
		good := s.last()
		for name, failure := range map[string]awstest.Failure{
			"denied": awstest.Denied("ec2:DescribeVpcs", "*"), "throttled": awstest.Throttled(), "down": awstest.Down(),
			"slow": {Delay: time.Minute},
		} {
			s.Server.Fail("ec2:DescribeVpcs", failure)
			n := len(s.applied())
			pass(time.Minute, 10)
			if len(s.applied()) > n+1 || f.Now().Err == nil { // one may have been under way
				t.Errorf("%s: %d applied, %v", name, len(s.applied())-n, f.Now().Err)
			}
			s.Server.Fail("ec2:DescribeVpcs", awstest.Failure{})
			pass(time.Minute, 3)
			if s.last() != good || f.Now().Err != nil {
				t.Errorf("after %s: applied %s, %v", name, s.last(), f.Now().Err)
			}
		}
		// No CIDR at all is a failure, too.
		s.vpc()
		n := len(s.applied())
		pass(time.Minute, 10)
		if len(s.applied()) != n || fmt.Sprint(f.Now().Routes.Advertise) != good {
			t.Errorf("without CIDRs: %v", f.Now().Routes.Advertise)
		}
	})
}

func TestFollowLogsOfManyOnlySome(t *testing.T) {
	a := start(t, fargate())
	a.Server.Update(func(w *awstest.World) {
		var list awstest.PrefixList
		for i := range 200 {
			list.Entries = append(list.Entries, awstest.Entry{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), 24)})
		}
		list.ID = "pl-0123abcd"
		w.PrefixLists = []awstest.PrefixList{list}
	})
	var log bytes.Buffer
	c := a.config("pl-0123abcd")
	c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	ctx, cancel := context.WithCancel(t.Context())
	bootstrap.New(c).Follow(routesource.Follow{Every: time.Hour, Apply: func([]netip.Prefix) { cancel() }}).Run(ctx)
	if n := strings.Count(log.String(), "route added"); n != 50 || !strings.Contains(log.String(), `msg="routes changed" added=200 removed=0`) {
		t.Errorf("%d lines for 200 routes: %s", n, log.String())
	}
}
