package bootstrap_test

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"subnetrouter/internal/access"
	"subnetrouter/internal/awstest"
	"subnetrouter/internal/bootstrap"
	"subnetrouter/internal/bootstrap/targets"
)

// TestTargetsAreFollowed: a change of a tag counts from the next look-up on, and a failed look-up takes nothing away.
func TestTargetsAreFollowed(t *testing.T) {
	a := start(t, fargate())
	target := netip.MustParseAddr("10.20.3.4")
	tag := func(value string) {
		a.Server.Update(func(w *awstest.World) {
			w.Interfaces = append(w.Interfaces[:1:1], awstest.Interface{
				ID: "eni-db", MAC: "other", VPCID: "vpc-0aaa", Addresses: []netip.Addr{target}, Instance: "i-1",
				Groups: []awstest.GroupRef{{ID: "sg-1", Name: "databases"}},
			})
			w.Instances = map[string]map[string]string{"i-1": {"env": value}}
		})
	}
	tag("prod")
	failures := map[string]awstest.Failure{
		"ec2:DescribeNetworkInterfaces": {Status: http.StatusServiceUnavailable, Code: "RequestLimitExceeded", Message: "Request limit exceeded."},
		"ec2:DescribeTags":              awstest.Denied("ec2:DescribeTags", "*"),
	}
	synctest.Test(t, func(t *testing.T) {
		s := &simulated{aws: a}
		c := a.config("10.0.0.0/16")
		c.Targets.Wanted, c.Transport = true, s
		applied := 0
		f := bootstrap.New(c).FollowTargets(targets.Follow{
			Every: time.Minute, Apply: func() { applied++ }, Around: func(look func() error) error { return look() },
		})
		ctx, cancel := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer cancel()
		go f.Run(ctx)
		after := func(d time.Duration, value string, look int, failed bool) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			now := f.Now()
			policy := access.Parse([]string{`{"tags":{"env":"` + value + `"},"securityGroups":["databases"],"vpcs":["vpc-0aaa"]}`})
			allowed := policy.Decide(now.Inventory, access.Flow{Target: netip.AddrPortFrom(target, 5432)}) != nil
			if !allowed || applied < look || (now.Err != nil) != failed || now.Found.IsZero() {
				t.Errorf("want env=%s after %d look-ups: %v, %d look-ups, %v", value, look, allowed, applied, now.Err)
			}
		}
		after(0, "prod", 1, false)
		tag("test")
		after(70*time.Second, "test", 2, false)
		tag("prod")
		for action, failure := range failures {
			a.Server.Fail(action, failure)
			after(70*time.Second, "test", 2, true)
			a.Server.Fail(action, awstest.Failure{})
		}
		after(70*time.Second, "prod", 3, false)
	})
	if actions := bootstrap.Actions(bootstrap.Config{Targets: targets.Settings{Wanted: true}}, true); !slices.Equal(actions, []string{"ec2:DescribeNetworkInterfaces", "ec2:DescribeTags"}) {
		t.Errorf("actions %v", actions)
	}
}
