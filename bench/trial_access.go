package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"subnetrouter/internal/awstest"
	"subnetrouter/internal/tailnettest"
)

// accessGroup is the group of new flows with ROUTER_ACCESS, in a tailnet with grants and a VPC with many network
// interfaces.
const accessGroup = "access"

// The subjects that decide about each flow, next to ours-userspace, which does not.
const (
	oursReport = "ours-report"
	oursGrants = "ours-grants"
)

const (
	accessInterfaces = 10_000
	accessPeers      = 300 // besides the client
	accessRules      = 10  // of each peer; the last one of the client allows its flows
	accessGroups     = 100 // security groups
	awsCapability    = "subnetrouter.dev/cap/aws"
)

// accessTrials are trials of new flows. All subjects look up AWS.
func accessTrials(s scale) (list []trial) {
	dns := dnsTrials(s)
	for _, t := range []trial{connectionTrials(s)[0], dns[len(dns)-1]} {
		run := t.run
		t.group, t.withAWS = accessGroup, true
		t.run = func(ctx context.Context, m *measurement) error {
			if name := m.r.subject.name; name == oursReport || name == oursGrants {
				if err := m.poll("the router to know all targets", time.Minute, func() error { return m.knowsTargets(ctx) }); err != nil {
					return err
				}
			}
			return run(ctx, m)
		}
		list = append(list, t)
	}
	return list
}

// knowsTargets returns an error unless the router has looked up all interfaces.
func (m *measurement) knowsTargets(ctx context.Context) error {
	c, err := m.r.host.Dial(ctx, "tcp", "127.0.0.1:9002")
	if err != nil {
		return fmt.Errorf("reading the router's metrics: %w", err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, "GET /metrics HTTP/1.0\r\n\r\n"); err != nil {
		return fmt.Errorf("reading the router's metrics: %w", err)
	}
	text, err := io.ReadAll(c)
	if err == nil && !strings.Contains(string(text), fmt.Sprintf("\nrouter_access_targets %d\n", accessInterfaces)) {
		err = fmt.Errorf("it does not know %d targets", accessInterfaces)
	}
	return err
}

// accessTargets returns the interfaces of the VPC besides the router's. The VPC's servers are in the last security group.
func accessTargets() (list []awstest.Interface) {
	addrs := hostAddrs()
	for a := netip.MustParseAddr("10.0.16.1"); len(addrs) < accessInterfaces-1; a = a.Next() {
		addrs = append(addrs, a)
	}
	for i, a := range addrs {
		group := accessGroups - 1
		if i >= vpcHosts {
			group = i % (accessGroups - 1)
		}
		list = append(list, awstest.Interface{
			ID: fmt.Sprintf("eni-%017x", i+1), VPCID: vpcID, SubnetID: "subnet-0123456789abcdef0", Addresses: []netip.Addr{a},
			Groups: []awstest.GroupRef{{ID: fmt.Sprintf("sg-%017x", group), Name: fmt.Sprintf("group-%d", group)}},
		})
	}
	return list
}

// grantAccess adds peers to the tailnet, and grants to each and to the client.
func (w *world) grantAccess(ctx context.Context) error {
	p := w.policy
	p.Rules = []tailnettest.Rule{{Src: []string{"*"}, Dst: []string{"*"}}}
	grant := func(src string, rules ...string) {
		p.Rules = append(p.Rules, tailnettest.Rule{Src: []string{src}, Dst: []string{"100.64.0.0/10"}, App: map[string][]string{awsCapability: rules}})
	}
	rule := func(group int) string {
		return fmt.Sprintf(`{"vpcs":[%q],"securityGroups":["group-%d"],"ports":["tcp:*","udp:*"]}`, vpcID, group)
	}
	rules := func(peer int, last string) (list []string) {
		for i := range accessRules - 1 {
			list = append(list, rule((peer+i)%(accessGroups-1)))
		}
		return append(list, last)
	}
	for i, a := range w.control.AddStandIns(accessPeers) {
		grant(a.String(), rules(i, rule(i%(accessGroups-1)))...)
	}
	nodes, err := w.control.Nodes(ctx)
	if err != nil {
		return err
	}
	laptop, _ := tailnettest.Find(nodes, clientName)
	for _, a := range laptop.IPs {
		grant(a.String(), rules(0, rule(accessGroups-1))...)
	}
	if err := w.control.SetPolicy(ctx, p); err != nil {
		return fmt.Errorf("granting access: %w", err)
	}
	return nil
}
