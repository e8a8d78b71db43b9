package awsapi_test

import (
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"reflect"
	"testing"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/awstest"
)

// TestTargets: pages of any length are followed, and a page that fails fails the whole answer.
func TestTargets(t *testing.T) {
	var server *awstest.Server
	calls, failAfter := 0, -1
	server, c := connect(t, "1", awsapi.Options{Called: func(string, error) {
		if calls++; calls == failAfter {
			server.Fail("ec2:DescribeNetworkInterfaces", awstest.Failure{Status: http.StatusServiceUnavailable, Code: "RequestLimitExceeded", Message: "Request limit exceeded."})
		}
	}})
	p := netip.MustParsePrefix
	var want []awsapi.TargetInterface
	tags := map[string]map[string]string{}
	var instances []string
	server.Update(func(w *awstest.World) {
		w.PageSize = 3
		w.Interfaces, w.Instances = []awstest.Interface{{ID: "eni-other", VPCID: "vpc-0bbb"}}, map[string]map[string]string{"i-other": {"env": "other"}}
		for n := range 450 {
			i := awstest.Interface{
				ID: fmt.Sprint("eni-", n), VPCID: "vpc-0aaa", MAC: fmt.Sprint(n), Instance: fmt.Sprint("i-", n), Tags: map[string]string{"n": fmt.Sprint(n)},
				Addresses: []netip.Addr{p("10.0.0.0/8").Addr(), p("2001:db8::/32").Addr()}, Groups: []awstest.GroupRef{{ID: "sg-1", Name: "web"}, {ID: "sg-2", Name: "db"}},
				Prefixes: []netip.Prefix{p("10.0.1.16/28"), p("2001:db8:1::/80")},
			}
			w.Interfaces = append(w.Interfaces, i)
			w.Instances[i.Instance] = map[string]string{"env": "prod", "app": fmt.Sprint(n)}
			tags[i.Instance] = w.Instances[i.Instance]
			instances = append(instances, i.Instance)
			want = append(want, awsapi.TargetInterface{
				ID: i.ID, VPCID: i.VPCID, Instance: i.Instance, Tags: i.Tags, Addrs: i.Addresses, Prefixes: i.Prefixes,
				Groups: []awsapi.GroupRef{{ID: "sg-1", Name: "web"}, {ID: "sg-2", Name: "db"}},
			})
		}
	})
	got, err := c.TargetInterfaces(t.Context(), "vpc-0aaa")
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %d interfaces, first %+v, %v", len(got), got[:min(1, len(got))], err)
	}
	found, err := c.InstanceTags(t.Context(), instances)
	if err != nil || !maps.EqualFunc(found, tags, maps.Equal) {
		t.Errorf("got the tags of %d instances, %v", len(found), err)
	}
	if calls != 150+302 {
		t.Errorf("%d calls, want one for each 3 interfaces and tags", calls)
	}
	if none, err := c.TargetInterfaces(t.Context(), "vpc-0ccc"); err == nil {
		t.Errorf("a VPC without interfaces: %v, %v", none, err)
	}
	failAfter = calls + 3
	if part, err := c.TargetInterfaces(t.Context(), "vpc-0aaa"); err == nil || part != nil {
		t.Errorf("after a page that failed: %d interfaces, %v", len(part), err)
	}
}
