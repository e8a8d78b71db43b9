package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"subnetrouter/internal/awstest"
	"subnetrouter/internal/ops"
	"subnetrouter/internal/routertest"
	"subnetrouter/internal/tailnettest"
	"subnetrouter/internal/testwait"
)

// newMember returns the setting of a task of a service that keeps its identities in a table.
func newMember(t *testing.T) *setting {
	t.Helper()
	s := newSetting(t)
	task := routertest.Task()
	task.Service, task.ARN = "edge", "arn:aws:ecs:eu-west-1:123456789012:task/network/1"
	metadata, err := awstest.NewMetadata("", task)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { metadata.Close() })
	s.Env["ECS_CONTAINER_METADATA_URI_V4"] = metadata.URI()
	s.Env["ROUTER_STATE"], s.Env["ROUTER_HOSTNAME"], s.Env["ROUTER_DRAIN_TIMEOUT"] = "dynamodb:routers", "edge", "8s"
	s.AWS.Update(func(w *awstest.World) {
		w.Tables = map[string]awstest.Table{"routers": {Partition: "service", Sort: "slot", SortType: "N"}}
		w.Clusters = map[string]awstest.Cluster{"network": {
			Tasks:    map[string]awstest.TaskState{"1": {}},
			Services: map[string]awstest.Service{"edge": {Desired: 1, Running: 1}},
		}}
	})
	key, err := s.Control.CreateKey(t.Context(), tailnettest.Key{Reusable: true, Preauthorized: true, Tags: []string{routertest.Tag}})
	if err != nil {
		t.Fatal(err)
	}
	s.AWS.Update(func(w *awstest.World) {
		w.Secrets = map[string]awstest.Secret{routertest.Secret: {Value: key.Reveal()}}
	})
	return s
}

// stops sets ECS's view of a task that is asked to stop.
func (s *setting) stops(desired int, reason string) {
	s.AWS.Update(func(w *awstest.World) {
		c := w.Clusters["network"]
		c.Services["edge"] = awstest.Service{Desired: desired, Running: 0}
		c.Tasks["1"] = awstest.TaskState{LastStatus: "STOPPING", DesiredStatus: "STOPPED", StoppedReason: reason}
	})
}

const schedulerStops = "Scaling activity initiated by (deployment ecs-svc/1)"

func (s *setting) names(t *testing.T) (list []string) {
	t.Helper()
	nodes, err := s.Control.Nodes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		list = append(list, n.Name)
	}
	return list
}

// TestDepartures expects a node to stay at the end of its task, unless the service becomes
// smaller and the credential may remove it.
func TestDepartures(t *testing.T) {
	client := routertest.Client
	deleter := tailnettest.NewOAuthClient(routertest.Tag)
	deleter.Devices = true
	for name, tc := range map[string]struct {
		client  *tailnettest.OAuthClient // nil is an auth key
		desired int
		denied  bool
		stays   bool
		state   bool // the slot keeps the node's state
		log     string
	}{
		"a replacement":                     {&deleter, 1, false, true, true, `"scale_in":false`},
		"smaller, with the scope":           {&deleter, 0, false, false, false, "node removed from the tailnet"},
		"smaller, without the scope":        {&client, 0, false, true, true, "devices:core"},
		"smaller, without ECS's permission": {&deleter, 0, true, true, true, "ecs:DescribeServices"},
		"smaller, with an auth key":         {nil, 0, false, true, true, "node logged out; remove it in the admin console"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newMember(t)
			if tc.client != nil {
				api := routertest.TrustedAPI()
				api.Clients = append(api.Clients, deleter)
				s.Control.SetAPI(t.Context(), api)
				s.Env["ROUTER_API_URL"] = s.Control.ControlURL()
				s.AWS.Update(func(w *awstest.World) {
					w.Secrets = map[string]awstest.Secret{routertest.Secret: {Value: tc.client.Secret}}
				})
			}
			c := s.start(t)
			c.awaitReady()
			if got := s.names(t); !slices.Equal(got, []string{"edge-0"}) {
				t.Fatalf("nodes %v", got)
			}
			s.stops(tc.desired, schedulerStops)
			if tc.denied {
				s.AWS.Fail("ecs:DescribeServices", awstest.Denied("ecs:DescribeServices", "edge"))
			}
			if code := c.stop(); code != exitOK {
				t.Errorf("exit code %d", code)
			}
			if got := len(s.names(t)) == 1; got != tc.stays {
				t.Errorf("the node stays: %v", got)
			}
			item := s.AWS.Items("routers")[0]
			if _, kept := item["state"]; kept != tc.state || item["holder"] != nil {
				t.Errorf("the slot keeps the state: %v; its holder is %v", kept, item["holder"])
			}
			if !strings.Contains(c.out.String(), tc.log) {
				t.Errorf("the log lacks %q", tc.log)
			}
			if departed := item["departed"] != nil; departed != (tc.client == nil) {
				t.Errorf("the slot names a node that is logged out: %v", departed)
			}
			c.expectNoSecrets()
		})
	}
}

// TestLostLease has another process take the slot of a running router, as after an outage of
// the table: the router restarts in place, and continues with another slot.
func TestLostLease(t *testing.T) {
	t.Parallel()
	s := newMember(t)
	c := s.start(t)
	c.awaitReady()
	thief := s.AWS.Items("routers")[0]
	thief["holder"], thief["task"], thief["lease"] = "another", "arn:aws:ecs:eu-west-1:123456789012:task/network/2", thief["lease"].(int64)+1
	s.AWS.PutItem("routers", thief)
	ctx, cancel := context.WithTimeout(t.Context(), 2*testwait.Limit())
	defer cancel()
	if err := s.Control.Await(ctx, "the other slot's node", func(nodes []tailnettest.Node) bool {
		n, ok := tailnettest.Find(nodes, "edge-1")
		return ok && n.Online
	}); err != nil {
		t.Fatal(err)
	}
	c.await("another slot", func(r ops.Readiness) bool { return r.Ready })
	out := c.out.String()
	for _, want := range []string{"another process took the slot", "restarting in place"} {
		if !strings.Contains(out, want) {
			t.Errorf("the log lacks %q", want)
		}
	}
	if n := strings.Count(out, `"msg":"router starting"`); n != 2 {
		t.Errorf("the router started %d times", n)
	}
	if code := c.stop(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	if item := s.AWS.Items("routers")[0]; item["holder"] != "another" {
		t.Errorf("the other process lost its slot: %s", fmt.Sprint(item))
	}
}

// TestNoFreeSlot expects a router without a slot to report it, and to stop at once.
func TestNoFreeSlot(t *testing.T) {
	t.Parallel()
	s := newMember(t)
	s.Env["ROUTER_STATE"] = "dynamodb:routers?slots=1"
	first := s.start(t)
	first.awaitReady()
	other := newMember(t)
	other.AWS = s.AWS
	for _, name := range []string{"AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} {
		if v, ok := s.Env[name]; ok {
			other.Env[name] = v
		}
	}
	other.Env["ROUTER_STATE"] = s.Env["ROUTER_STATE"]
	other.Env["ECS_CONTAINER_METADATA_URI_V4"] = func() string {
		task := routertest.Task()
		task.Service, task.ARN, task.ContainerID = "edge", "arn:aws:ecs:eu-west-1:123456789012:task/network/2", "other"
		m, err := awstest.NewMetadata("", task)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		return m.URI()
	}()
	c := other.start(t)
	why := c.awaitCode("no_slot")
	if why.Fix == "" || !strings.Contains(why.Message, "1 in all") {
		t.Errorf("the reason is %+v", why)
	}
	if code := c.stop(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	if code := first.stop(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}
