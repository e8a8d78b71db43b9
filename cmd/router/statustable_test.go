package main

import (
	"strings"
	"testing"
	"time"

	"subnetrouter/internal/ops"
)

func TestStatusTable(t *testing.T) {
	now := time.Now()
	var out strings.Builder
	printStatus(&out, ops.Status{
		Started: now.Add(-90 * time.Minute), Version: ops.Version{Router: "1.2.3"},
		Reasons:  []ops.Reason{{Code: "routes_unapproved", Message: "the tailnet has not approved 10.8.0.0/16", Fix: "paste this"}},
		Warnings: []ops.Reason{{Code: "node_key_expiring", Message: "in 3 days"}},
		Mode:     ops.Mode{Name: "userspace", Why: "no TUN"},
		Place:    ops.Place{LaunchType: "FARGATE", VPC: "vpc-1"},
		Node:     ops.Node{State: "Running", Name: "edge", IPs: []string{"100.64.0.1"}},
		Routes: []ops.RouteStatus{
			{Prefix: "10.0.0.0/16", Source: "vpc", Advertised: true, Approved: true, Primary: true},
			{Prefix: "10.8.0.0/16", Source: "vpc", Advertised: true},
		},
		Peers: ops.Peers{Direct: 1, Idle: 4, List: []ops.Peer{
			{Name: "laptop", Path: "direct", Via: "192.0.2.1:41641", LatencySeconds: .0123, ToPeerBytes: 5 << 20, FromPeerBytes: 900},
		}},
		Flows: ops.Flows{TCP: 1, Live: []ops.Flow{
			{Protocol: "tcp", Client: "100.64.0.2:4000", Node: "laptop", Target: "10.0.3.4:5432", Opened: now.Add(-time.Minute), ToVPCBytes: 2048},
		}},
		Access: &ops.Access{Mode: "report", Targets: 3, LookedUp: now.Add(-time.Minute), Error: "no answer", Peers: 1, Rules: 2, Malformed: 1, Allowed: 7, Denied: 8,
			Denials: []ops.Denial{{Time: now.Add(-time.Hour), Protocol: "tcp", Client: "100.64.0.2", Target: "10.0.3.4:22", Interface: "eni-1"}}},
		Egress: &ops.Egress{Targets: []ops.EgressTarget{{Target: "db:5432", Open: 2, Opened: 30, ToTailnetBytes: 4096, ToVPCBytes: 5}}},
		Events: []ops.Event{{Time: now.Add(-time.Hour), Level: "INFO", Message: "route added", Detail: []string{"prefix=10.8.0.0/16"}}},
		Limits: ops.Limits{Flows: ops.Use{Used: 1, Limit: 6553}, MemoryBytes: ops.Use{Used: 50 << 20, Limit: 512 << 20}},
	})
	for _, want := range []string{
		"edge: not ready (Running, userspace mode: no TUN)",
		"! routes_unapproved: the tailnet has not approved 10.8.0.0/16\n    paste this",
		"? node_key_expiring: in 3 days",
		"place: FARGATE vpc-1", "up: 1h30m0s, version 1.2.3",
		"peers: 1 direct, 0 relay, 0 derp, 4 idle",
		"limits: flows 1 of 6553, per peer 0, memory 50 MiB of 512 MiB, open files 0",
		"10.0.0.0/16  primary          vpc\n10.8.0.0/16  awaits approval  vpc",
		"laptop  direct 192.0.2.1:41641  12.3ms   5.0 MiB  900 B",
		"access: report, 2 rules for 1 peers, 1 malformed; 3 targets, looked up 1m0s ago; 7 flows allowed, 8 would be denied\n  ? no answer",
		"tcp 100.64.0.2  10.0.3.4:22  1h0m0s  eni-1",
		"tcp laptop  10.0.3.4:5432  2.0 KiB  0 B         1m0s",
		"db:5432           2     30      4.0 KiB     5 B",
		"route added  1h0m0s  prefix=10.8.0.0/16",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
}
