package routesource

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/bootstrap/iam"
	"subnetrouter/internal/bootstrap/place"
	"subnetrouter/internal/problem"
	"subnetrouter/internal/routes"
)

var peerings = &Kind{
	Syntax:     "peerings",
	Help:       "networks that the subnet's route table reaches over peerings and transit gateways",
	Example:    "peerings",
	NeedsPlace: true,
	parse:      word(Peerings{}),
}

// Peerings is the prefixes that the route table of the task's subnet sends to VPC
// peerings and transit gateways. Finding none is not an error: every table has local routes,
// so an incomplete answer is detected by their absence.
type Peerings struct{}

func (Peerings) String() string { return "peerings" }
func (Peerings) kind() *Kind    { return peerings }

// Needs returns the actions of [Peerings.find]. Metadata never gives the subnet's
// ID, and a route table may refer to any prefix list.
func (Peerings) Needs() []iam.Need {
	return []iam.Need{
		{Action: awsapi.DescribeNetworkInterfaces},
		{Action: awsapi.DescribeRouteTables},
		{Action: awsapi.DescribeVPCPeeringConnections},
		{Action: awsapi.GetManagedPrefixListEntries, Allow: func(iam.Scope) []iam.Statement { return readPrefixLists("*") }},
	}
}

func (Peerings) find(ctx context.Context, p *place.Finder) (f finding, err error) {
	task, err := p.Task(ctx)
	if err != nil {
		return f, err
	}
	if task.Network.MAC == "" {
		return f, problem.New(needsAWSVPC, "task metadata gives no MACAddress in network mode %q, and thereby no subnet", task.Network.Mode)
	}
	eni, err := p.Interface(ctx)
	if err != nil {
		return f, err
	}
	client, err := p.AWS(ctx)
	if err != nil {
		return f, err
	}
	table, err := client.RouteTable(ctx, eni.VPCID, eni.SubnetID)
	if err != nil {
		return f, err
	}
	var ids []string
	for _, r := range table.Routes {
		if isPeering(r.Target) && !slices.Contains(ids, r.Target) {
			ids = append(ids, r.Target)
		}
	}
	peers, err := client.Peerings(ctx, eni.VPCID, ids)
	if err != nil {
		return f, err
	}
	for _, r := range table.Routes {
		if !isPeering(r.Target) && !strings.HasPrefix(r.Target, "tgw-") {
			continue
		}
		n := tableRoute{route: r, table: table.ID, peer: peers[r.Target]}
		if err := n.find(ctx, client, &f); err != nil {
			return f, err
		}
	}
	return f, nil
}

func isPeering(target string) bool { return strings.HasPrefix(target, "pcx-") }

// tableRoute is a route of the table to a peering or a transit gateway.
type tableRoute struct {
	route awsapi.Route
	table string
	peer  awsapi.Peering // zero if the target is not a peering, or not visible to the task
}

func (n tableRoute) find(ctx context.Context, client *awsapi.Client, f *finding) error {
	if n.route.PrefixList == "" {
		n.add(f, FromAWS, n.String(), n.route.Prefix)
		return nil
	}
	if n.route.Blackhole {
		return nil // its prefixes are unreachable, so the call is saved
	}
	entries, err := client.PrefixList(ctx, n.route.PrefixList)
	for _, e := range entries {
		n.add(f, FromPrefixList, n.String()+", "+listed(n.route.PrefixList, e), e.Prefix)
	}
	return err
}

// add adds or refuses one destination. A peering is not transitive: of a route to
// 10.0.0.0/8 it forwards only the CIDRs of the peer VPC, so if those are known only the
// intersection is advertised.
func (n tableRoute) add(f *finding, o Origin, source string, p netip.Prefix) {
	switch {
	case n.route.Blackhole:
		f.refuse(p, source, "a blackhole in the route table: its target no longer exists")
	case n.peer.ID != "" && !n.peer.Active:
		f.refuse(p, source, "the peering is not active")
	case len(n.peer.CIDRs) == 0 || p.Bits() == 0: // a default route is refused later, with the others
		f.add(o, source, p)
	default:
		reached := routes.Intersect(p, n.peer.CIDRs)
		if len(reached) == 0 {
			f.refuse(p, source, "the peer VPC has no address in it")
		}
		f.add(o, source, reached...)
	}
}

// String returns "peering pcx-1 to vpc-2 (rtb-3)".
func (n tableRoute) String() string {
	switch {
	case n.peer.Peer != "":
		return fmt.Sprintf("peering %s to %s (%s)", n.route.Target, n.peer.Peer, n.table)
	case isPeering(n.route.Target):
		return fmt.Sprintf("peering %s (%s)", n.route.Target, n.table)
	}
	return fmt.Sprintf("transit gateway %s (%s)", n.route.Target, n.table)
}
