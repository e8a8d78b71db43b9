package awsapi_test

import (
	"fmt"
	"slices"
	"testing"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/awstest"
	"subnetrouter/internal/problem"
)

// TestLoadBalancersInBatches: the tags of many load balancers are read in batches, and pages of
// any length are followed.
func TestLoadBalancersInBatches(t *testing.T) {
	server, c := connect(t, "1", awsapi.Options{})
	var want []awsapi.Endpoint
	server.Update(func(w *awstest.World) {
		w.PageSize = 7
		for i := range 45 {
			b := awstest.LoadBalancer{Name: fmt.Sprint("b", i), DNS: fmt.Sprintf("b%d.elb.amazonaws.com", i), Tags: map[string]string{"env": "prod"}}
			switch i % 3 {
			case 1:
				b.Tags = map[string]string{"env": "products", "other": "prod"}
			case 2:
				b.Type, b.DNS = "gateway", ""
			default:
				want = append(want, awsapi.Endpoint{Name: b.DNS, Resource: "load balancer " + b.Name})
			}
			w.LoadBalancers = append(w.LoadBalancers, b)
		}
	})
	got, err := c.LoadBalancers(t.Context(), "env", "prod")
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	calls := map[string]int{}
	for _, call := range server.Calls() {
		calls[call]++
	}
	if calls["elasticloadbalancing:DescribeLoadBalancers"] != 7 || calls["elasticloadbalancing:DescribeTags"] != 2 {
		t.Errorf("calls %v", calls)
	}
	if got, err := c.LoadBalancers(t.Context(), "env", `pro?`); err != nil || !slices.Equal(got, want) {
		t.Errorf("with a wildcard: %v, %v", got, err)
	}
	if _, err := c.LoadBalancers(t.Context(), "env", `pro\?`); err == nil {
		t.Error(`\? is a wildcard`)
	}
}

func TestNamedErrors(t *testing.T) {
	server, c := connect(t, "1", awsapi.Options{})
	server.Update(func(w *awstest.World) {
		w.Proxies = []awstest.DatabaseProxy{{ID: "prx-1", Name: "pool", Endpoint: "pool.rds.amazonaws.com", Tags: map[string]string{"a": "b"}}}
		w.Databases = []awstest.Database{{ID: "new", Tags: map[string]string{"a": "c"}}}
		w.LoadBalancers = []awstest.LoadBalancer{{Name: "web", DNS: "web.elb.amazonaws.com"}}
	})
	databases := func(value string) func() error {
		return func() error { _, err := c.Databases(t.Context(), "a", value); return err }
	}
	balancers := func() error { _, err := c.LoadBalancers(t.Context(), "a", "b"); return err }
	for name, test := range map[string]struct {
		action  string
		failure awstest.Failure
		call    func() error
		want    string
	}{
		"no database":   {"", awstest.Failure{}, databases("none"), "calling rds:DescribeDBInstances for the databases with tag a=none: there is none with an endpoint; correct the tag in ROUTER_ROUTES, or tag an instance, cluster or proxy"},
		"no endpoint":   {"", awstest.Failure{}, databases("c"), "calling rds:DescribeDBInstances for the databases with tag a=c: there is none with an endpoint; correct the tag in ROUTER_ROUTES, or tag an instance, cluster or proxy"},
		"no balancer":   {"", awstest.Failure{}, balancers, "calling elasticloadbalancing:DescribeLoadBalancers for the load balancers with tag a=b: there is none; correct the tag in ROUTER_ROUTES, or tag an Application or Network Load Balancer"},
		"tags denied":   {"rds:ListTagsForResource", awstest.Failure{Status: 403, Code: "AccessDenied", Message: "no"}, databases("b"), `calling rds:ListTagsForResource for the tags of database proxy pool: AccessDenied: no; allow rds:ListTagsForResource on "*" in the task role's policy`},
		"throttled":     {"elasticloadbalancing:DescribeTags", awstest.Failure{Status: 400, Code: "Throttling", Message: "Rate exceeded"}, balancers, "calling elasticloadbalancing:DescribeTags for the load balancers with tag a=b: Throttling: Rate exceeded; other callers may be using up this account's API rate in eu-west-1"},
		"down":          {"rds:DescribeDBProxies", awstest.Down(), databases("b"), "calling rds:DescribeDBProxies for the databases with tag a=b: ServiceUnavailable: The service is unavailable. Please try again shortly; AWS is failing in eu-west-1, see its health dashboard"},
		"proxy is gone": {"rds:ListTagsForResource", awstest.Failure{Status: 404, Code: "DBProxyNotFoundFault", Message: "gone"}, databases("b"), "calling rds:DescribeDBInstances for the databases with tag a=b: there is none with an endpoint; correct the tag in ROUTER_ROUTES, or tag an instance, cluster or proxy"},
	} {
		t.Run(name, func(t *testing.T) {
			server.Fail(test.action, test.failure)
			defer server.Fail(test.action, awstest.Failure{})
			err := test.call()
			if code := problem.CodeOf(err, ""); err == nil || err.Error() != test.want || code != problem.RoutesUnknown {
				t.Fatalf("got  %v: %v\nwant %v", code, err, test.want)
			}
		})
	}
}
