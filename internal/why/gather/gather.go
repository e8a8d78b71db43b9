// Package gather reads the facts about a flow through AWS, for package why. A call that AWS refuses
// makes a fact missing, and the others are still read.
package gather

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/bootstrap/iam"
	"subnetrouter/internal/problem"
	"subnetrouter/internal/why"
)

// Needs returns the AWS actions that [Network] calls.
func Needs() []iam.Need {
	return []iam.Need{
		{Action: awsapi.DescribeNetworkInterfaces},
		{Action: awsapi.DescribeRouteTables},
		{Action: awsapi.DescribeVPCPeeringConnections},
		{Action: awsapi.DescribeSecurityGroups},
		{Action: awsapi.DescribeNetworkACLs},
		{Action: awsapi.GetManagedPrefixListEntries, Allow: func(iam.Scope) []iam.Statement {
			// Rules and routes may name any list. A route source that is a list has this statement too.
			return []iam.Statement{iam.Allow("ReadPrefixLists", awsapi.GetManagedPrefixListEntries.Name, "*")}
		}},
	}
}

// maxLists bounds the prefix lists that are read for one question.
const maxLists = 20

// reader reads the facts of one question.
type reader struct {
	client *awsapi.Client
	n      why.Network
}

// Network reads the facts about the way from the task, whose interface has a MAC address, to a
// target. It makes about ten calls, and returns when ctx ends at the latest.
func Network(ctx context.Context, client *awsapi.Client, mac string, target netip.Addr) *why.Network {
	r := &reader{client: client, n: why.Network{Lists: map[string]why.Fact[[]netip.Prefix]{}, Peerings: map[string]why.Fact[why.Peering]{}}}
	r.read(ctx, mac, target)
	return &r.n
}

func (r *reader) read(ctx context.Context, mac string, target netip.Addr) {
	task, owner, m := r.task(ctx, mac)
	if m != (why.Missing{}) {
		r.n.Task.Interface.Missing = m
		return
	}
	r.n.Task.Interface.Value = task
	r.n.Task.Table = r.table(ctx, task)
	hop, _ := r.n.Task.Table.Value.LookUp(target, r.n.Lists)
	if hop != nil && strings.HasPrefix(hop.Target, "tgw-") {
		zones, err := r.client.TransitGatewayZones(ctx, task.VPC)
		if r.n.TransitZones.Value = zones; err != nil {
			r.n.TransitZones.Missing = missing(err)
		}
	}
	vpc := r.vpcOf(ctx, task, hop)
	r.n.Target.Interface = r.target(ctx, target, vpc)
	other := r.n.Target.Interface.Value
	r.groups(ctx, task, other)
	r.acls(ctx, task, other, owner)
	switch {
	case other == nil:
	case other.Subnet == task.Subnet:
		r.n.Target.Table = r.n.Task.Table
	default:
		r.n.Target.Table = r.table(ctx, other)
	}
}

func (r *reader) task(ctx context.Context, mac string) (task *why.Interface, owner string, m why.Missing) {
	if mac == "" {
		return nil, "", why.Missing{Reason: "task metadata has no MAC address, so the task's interface is not known", Fix: "run the task with network mode awsvpc"}
	}
	list, err := r.client.InterfacesOf(ctx, mac, netip.Addr{}, "")
	switch {
	case err != nil:
		return nil, "", missing(err)
	case len(list) != 1:
		return nil, "", why.Missing{Reason: fmt.Sprintf("%d interfaces have the task's MAC address %s", len(list), mac), Fix: "check that AWS_REGION and the credentials are the task's own"}
	}
	return interfaceOf(list[0]), list[0].Owner, why.Missing{}
}

// vpcOf returns the VPC in which the target is, as far as the route to it says; "" is any.
func (r *reader) vpcOf(ctx context.Context, task *why.Interface, hop *why.TableRoute) string {
	switch {
	case hop == nil:
		return ""
	case hop.InVPC():
		return task.VPC
	case !strings.HasPrefix(hop.Target, "pcx-"):
		return ""
	}
	found, err := r.client.Peerings(ctx, task.VPC, []string{hop.Target})
	if err != nil {
		r.n.Peerings[hop.Target] = why.Fact[why.Peering]{Missing: missing(err)}
		return ""
	}
	p, ok := found[hop.Target]
	if !ok {
		r.n.Peerings[hop.Target] = why.Know(why.Peering{ID: hop.Target, State: "not visible, or deleted"})
		return ""
	}
	r.n.Peerings[hop.Target] = why.Know(why.Peering{ID: hop.Target, State: p.State})
	return p.Peer
}

func (r *reader) target(ctx context.Context, target netip.Addr, vpc string) why.Fact[*why.Interface] {
	list, err := r.client.InterfacesOf(ctx, "", target, vpc)
	if err == nil && len(list) == 0 && vpc != "" {
		list, err = r.client.InterfacesDelegated(ctx, target, vpc)
	}
	switch {
	case err != nil:
		return why.Fact[*why.Interface]{Missing: missing(err)}
	case len(list) == 0:
		return why.Know[*why.Interface](nil)
	case len(list) > 1:
		return why.Lack[*why.Interface](fmt.Sprintf("%d interfaces of this account have %s, in several VPCs", len(list), target), "")
	}
	return why.Know(interfaceOf(list[0]))
}

func interfaceOf(d awsapi.InterfaceDetails) *why.Interface {
	return &why.Interface{ID: d.ID, VPC: d.VPCID, Subnet: d.SubnetID, Zone: d.Zone, Groups: d.Groups, Addrs: d.Addrs}
}

func (r *reader) table(ctx context.Context, i *why.Interface) why.Fact[why.Table] {
	t, err := r.client.RouteTable(ctx, i.VPC, i.Subnet)
	if err != nil {
		return why.Fact[why.Table]{Missing: missing(err)}
	}
	table := why.Table{ID: t.ID, Main: t.Main}
	for _, route := range t.Routes {
		r.list(ctx, route.PrefixList)
		table.Routes = append(table.Routes, why.TableRoute{
			Prefix: route.Prefix, List: route.PrefixList, Target: route.Target, Blackhole: route.Blackhole, Propagated: route.Propagated,
		})
	}
	return why.Know(table)
}

// groups reads the security groups of both ends in one call.
func (r *reader) groups(ctx context.Context, task, other *why.Interface) {
	ids := slices.Clone(task.Groups)
	if other != nil {
		ids = append(ids, other.Groups...)
	}
	slices.Sort(ids)
	found, err := r.client.SecurityGroups(ctx, slices.Compact(ids))
	fact := func(i *why.Interface) (f why.Fact[[]why.Group]) {
		if err != nil {
			f.Missing = missing(err)
			return f
		}
		for _, id := range i.Groups {
			g, ok := found[id]
			if !ok {
				return why.Lack[[]why.Group](id+" is not visible to this account", "")
			}
			f.Value = append(f.Value, why.Group{ID: g.ID, Name: g.Name, Ingress: r.rules(ctx, g.Ingress), Egress: r.rules(ctx, g.Egress)})
		}
		return f
	}
	r.n.Task.Groups = fact(task)
	if other != nil {
		r.n.Target.Groups = fact(other)
	}
}

func (r *reader) rules(ctx context.Context, list []awsapi.GroupRule) (rules []why.Rule) {
	for _, rule := range list {
		for _, id := range rule.Lists {
			r.list(ctx, id)
		}
		rules = append(rules, why.Rule{Protocol: rule.Protocol, From: rule.From, To: rule.To, Prefixes: rule.Prefixes, Lists: rule.Lists, Groups: rule.Groups})
	}
	return rules
}

// acls reads the network ACLs of both subnets in one call. owner is the account that owns the
// task's interface.
func (r *reader) acls(ctx context.Context, task, other *why.Interface, owner string) {
	subnets := []string{task.Subnet}
	if other != nil && other.Subnet != task.Subnet {
		subnets = append(subnets, other.Subnet)
	}
	found, err := r.client.NetworkACLs(ctx, subnets)
	fact := func(i *why.Interface) (f why.Fact[why.ACL]) {
		acl, ok := found[i.Subnet]
		switch {
		case err != nil:
			f.Missing = missing(err)
			return f
		case !ok:
			return why.Lack[why.ACL]("the network ACL of "+i.Subnet+" is not visible to this account", "")
		}
		f.Value.ID = acl.ID
		for _, e := range acl.Entries {
			f.Value.Entries = append(f.Value.Entries, why.ACLEntry(e))
		}
		return f
	}
	r.n.Task.ACL = fact(task)
	r.n.Shared = r.n.Task.ACL.Known() && found[task.Subnet].Owner != owner
	if other != nil {
		r.n.Target.ACL = fact(other)
	}
}

// list reads a prefix list once; "" is none.
func (r *reader) list(ctx context.Context, id string) {
	if _, known := r.n.Lists[id]; known || id == "" {
		return
	}
	if len(r.n.Lists) == maxLists {
		return
	}
	entries, err := r.client.PrefixList(ctx, id)
	if err != nil {
		r.n.Lists[id] = why.Fact[[]netip.Prefix]{Missing: missing(err)}
		return
	}
	var list []netip.Prefix
	for _, e := range entries {
		list = append(list, e.Prefix)
	}
	r.n.Lists[id] = why.Know(list)
}

// missing returns the reason why a call failed. The fix of a denial names the action.
func missing(err error) why.Missing {
	p := problem.Of(err)
	fix := p.Fix
	if strings.HasPrefix(fix, "allow ec2:") {
		fix += "; `router plan --iam --why` prints all, and the module's enable_why adds them"
	}
	return why.Missing{Reason: cmp.Or(p.Message, err.Error()), Fix: fix}
}
