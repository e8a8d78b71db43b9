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

// Subnet is a subnet with its CIDRs: IPv4, then IPv6 in state "associated".
type Subnet struct {
	ID       string
	Prefixes []netip.Prefix
}

// DescribeSubnets is the action that [Client.SubnetsByTag] needs.
var DescribeSubnets = Action{Name: "ec2:DescribeSubnets", dryRun: func(ctx context.Context, c *ec2.Client, _ string) error {
	_, err := c.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{DryRun: aws.Bool(true)})
	return err
}}

// SubnetsByTag returns the VPC's subnets with a tag, in AWS's order. As in all filters of
// EC2, * and ? in value are wildcards. An answer without any is an error: accepting it would
// withdraw their routes.
func (c *Client) SubnetsByTag(ctx context.Context, vpcID, tag, value string) ([]Subnet, error) {
	req := c.describe(DescribeSubnets, fmt.Sprintf("the subnets of VPC %s with tag %s=%s", vpcID, tag, value), "")
	pages := ec2.NewDescribeSubnetsPaginator(c.ec2, &ec2.DescribeSubnetsInput{
		Filters: []types.Filter{
			{Name: aws.String("vpc-id"), Values: []string{vpcID}},
			{Name: aws.String("tag:" + tag), Values: []string{value}},
		},
		MaxResults: aws.Int32(1000), // the most that EC2 takes
	})
	var list []Subnet
	for pages.HasMorePages() {
		out, err := nextPage(ctx, c, req, pages.NextPage)
		if err != nil {
			return nil, err
		}
		for _, s := range out.Subnets {
			subnet, err := subnetOf(s)
			if err != nil {
				return nil, req.fail(problem.RoutesUnknown, "", err.Error(), "")
			}
			list = append(list, subnet)
		}
	}
	if len(list) == 0 {
		return nil, req.fail(problem.RoutesUnknown, "", "there is none", "correct the tag in ROUTER_ROUTES, or tag the subnets")
	}
	return list, nil
}

func subnetOf(s types.Subnet) (Subnet, error) {
	subnet := Subnet{ID: aws.ToString(s.SubnetId)}
	var cidrs []string
	if s.CidrBlock != nil { // an IPv6-only subnet has none
		cidrs = append(cidrs, *s.CidrBlock)
	}
	for _, a := range s.Ipv6CidrBlockAssociationSet {
		if a.Ipv6CidrBlockState != nil && a.Ipv6CidrBlockState.State == types.SubnetCidrBlockStateCodeAssociated {
			cidrs = append(cidrs, aws.ToString(a.Ipv6CidrBlock))
		}
	}
	var err error
	subnet.Prefixes, err = parsePrefixes(subnet.ID, cidrs)
	return subnet, err
}

// parsePrefixes parses the CIDRs of a resource, whose name is part of the error.
func parsePrefixes(of string, cidrs []string) ([]netip.Prefix, error) {
	var ps []netip.Prefix
	for _, s := range cidrs {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("parsing a CIDR of %s: %w", of, err)
		}
		ps = append(ps, p)
	}
	return ps, nil
}
