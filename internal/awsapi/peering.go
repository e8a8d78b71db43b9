package awsapi

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"subnetrouter/internal/problem"
)

// Peering is a VPC peering connection as seen from one of its VPCs.
type Peering struct {
	ID     string
	Active bool
	State  string         // "active", "deleted", "pending-acceptance"
	Peer   string         // the other VPC's ID
	CIDRs  []netip.Prefix // the other VPC's; empty where its owner does not show them
}

// DescribeVPCPeeringConnections is the action that [Client.Peerings] needs.
var DescribeVPCPeeringConnections = Action{Name: "ec2:DescribeVpcPeeringConnections", dryRun: func(ctx context.Context, c *ec2.Client, _ string) error {
	_, err := c.DescribeVpcPeeringConnections(ctx, &ec2.DescribeVpcPeeringConnectionsInput{DryRun: aws.Bool(true)})
	return err
}}

// Peerings returns connections of the VPC by ID, without those that do not exist or are not
// visible to the caller. Without IDs it makes no call.
func (c *Client) Peerings(ctx context.Context, vpcID string, ids []string) (map[string]Peering, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	req := c.describe(DescribeVPCPeeringConnections, strings.Join(ids, ", "), "")
	// A filter, since a request by ID fails for all if one does not exist. A VPC has at
	// most 125 peerings, and a filter accepts 200 values.
	pages := ec2.NewDescribeVpcPeeringConnectionsPaginator(c.ec2, &ec2.DescribeVpcPeeringConnectionsInput{
		Filters:    []types.Filter{{Name: aws.String("vpc-peering-connection-id"), Values: ids}},
		MaxResults: aws.Int32(1000), // the most that EC2 takes
	})
	found := map[string]Peering{}
	for pages.HasMorePages() {
		out, err := nextPage(ctx, c, req, pages.NextPage)
		if err != nil {
			return nil, err
		}
		for _, p := range out.VpcPeeringConnections {
			peering, err := peeringOf(p, vpcID)
			if err != nil {
				return nil, req.fail(problem.RoutesUnknown, "", err.Error(), "")
			}
			if slices.Contains(ids, peering.ID) { // moto knows no such filter
				found[peering.ID] = peering
			}
		}
	}
	return found, nil
}

func peeringOf(p types.VpcPeeringConnection, vpcID string) (Peering, error) {
	peering := Peering{
		ID:     aws.ToString(p.VpcPeeringConnectionId),
		Active: p.Status != nil && p.Status.Code == types.VpcPeeringConnectionStateReasonCodeActive,
	}
	if p.Status != nil {
		peering.State = string(p.Status.Code)
	}
	other := p.AccepterVpcInfo
	if other != nil && aws.ToString(other.VpcId) == vpcID {
		other = p.RequesterVpcInfo
	}
	if other == nil {
		return peering, nil
	}
	peering.Peer = aws.ToString(other.VpcId)
	var cidrs []string
	for _, b := range other.CidrBlockSet {
		cidrs = append(cidrs, aws.ToString(b.CidrBlock))
	}
	if len(cidrs) == 0 && other.CidrBlock != nil {
		cidrs = append(cidrs, *other.CidrBlock)
	}
	for _, b := range other.Ipv6CidrBlockSet {
		cidrs = append(cidrs, aws.ToString(b.Ipv6CidrBlock))
	}
	var err error
	peering.CIDRs, err = parsePrefixes(peering.ID, cidrs)
	return peering, err
}
