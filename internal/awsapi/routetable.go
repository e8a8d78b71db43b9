package awsapi

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"subnetrouter/internal/problem"
)

// RouteTable is the route table that a subnet uses.
type RouteTable struct {
	ID     string
	Main   bool    // the VPC's main one, which subnets without their own use
	Routes []Route // never empty
}

// Route is one route of a table. Of Prefix and PrefixList one is set.
type Route struct {
	Prefix     netip.Prefix
	PrefixList string // "pl-..."
	Target     string // "pcx-...", "tgw-...", "nat-...", "local"; "" for an unknown kind
	Blackhole  bool   // the target no longer exists
	Propagated bool   // by a virtual private gateway
}

// DescribeRouteTables is the action that [Client.RouteTable] needs.
var DescribeRouteTables = Action{Name: "ec2:DescribeRouteTables", dryRun: func(ctx context.Context, c *ec2.Client, _ string) error {
	_, err := c.DescribeRouteTables(ctx, &ec2.DescribeRouteTablesInput{DryRun: aws.Bool(true)})
	return err
}}

// RouteTable returns the table associated with a subnet, else the VPC's main one.
func (c *Client) RouteTable(ctx context.Context, vpcID, subnetID string) (RouteTable, error) {
	table, found, err := c.routeTable(ctx, "the route table of subnet "+subnetID,
		types.Filter{Name: aws.String("association.subnet-id"), Values: []string{subnetID}})
	if found || err != nil {
		return table, err
	}
	table, found, err = c.routeTable(ctx, "the main route table of VPC "+vpcID,
		types.Filter{Name: aws.String("vpc-id"), Values: []string{vpcID}},
		types.Filter{Name: aws.String("association.main"), Values: []string{"true"}})
	if err == nil && !found {
		req := c.describe(DescribeRouteTables, "the main route table of VPC "+vpcID, "")
		return RouteTable{}, req.fail(problem.RoutesUnknown, "", "there is none in "+req.region, "check that AWS_REGION and the credentials are the task's own")
	}
	table.Main = true
	return table, err
}

func (c *Client) routeTable(ctx context.Context, what string, filters ...types.Filter) (table RouteTable, found bool, err error) {
	req := c.describe(DescribeRouteTables, what, "")
	pages := ec2.NewDescribeRouteTablesPaginator(c.ec2, &ec2.DescribeRouteTablesInput{
		Filters: filters, MaxResults: aws.Int32(100), // the most that EC2 takes
	})
	for pages.HasMorePages() { // a page may be empty while more follow
		out, err := nextPage(ctx, c, req, pages.NextPage)
		if err != nil {
			return RouteTable{}, false, err
		}
		for _, t := range out.RouteTables {
			table, err := routeTableOf(t)
			if err == nil && len(table.Routes) == 0 {
				// Every table has at least the local route.
				err = fmt.Errorf("%s has no route at all", table.ID)
			}
			if err != nil {
				return RouteTable{}, false, req.fail(problem.RoutesUnknown, "", err.Error(), "")
			}
			return table, true, nil
		}
	}
	return RouteTable{}, false, nil
}

func routeTableOf(t types.RouteTable) (RouteTable, error) {
	table := RouteTable{ID: aws.ToString(t.RouteTableId)}
	for _, r := range t.Routes {
		route := Route{
			PrefixList: aws.ToString(r.DestinationPrefixListId),
			Target:     target(r),
			Blackhole:  r.State == types.RouteStateBlackhole,
			Propagated: r.Origin == types.RouteOriginEnableVgwRoutePropagation,
		}
		cidr := aws.ToString(r.DestinationCidrBlock)
		if cidr == "" {
			cidr = aws.ToString(r.DestinationIpv6CidrBlock)
		}
		if cidr != "" {
			var err error
			if route.Prefix, err = netip.ParsePrefix(cidr); err != nil {
				return RouteTable{}, fmt.Errorf("parsing a route of %s: %w", table.ID, err)
			}
		}
		if cidr != "" || route.PrefixList != "" {
			table.Routes = append(table.Routes, route)
		}
	}
	return table, nil
}

// target returns the one target field of a route that is set.
func target(r types.Route) string {
	for _, id := range []*string{
		r.VpcPeeringConnectionId, r.TransitGatewayId, r.GatewayId, r.NatGatewayId, r.NetworkInterfaceId,
		r.EgressOnlyInternetGatewayId, r.LocalGatewayId, r.CarrierGatewayId, r.CoreNetworkArn,
	} {
		if id != nil && *id != "" {
			return *id
		}
	}
	return ""
}
