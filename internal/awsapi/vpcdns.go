package awsapi

import (
	"context"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"subnetrouter/internal/problem"
	"subnetrouter/internal/secret"
)

// DescribeVPCAttribute is the action that [Client.VPCDNS] needs.
var DescribeVPCAttribute = Action{Name: "ec2:DescribeVpcAttribute"}

// VPCDNS reports whether a VPC has AWS's resolver, and whether its instances have names.
func (c *Client) VPCDNS(ctx context.Context, vpcID string) (support, hostnames bool, err error) {
	req := c.describe(DescribeVPCAttribute, "the DNS attributes of VPC "+vpcID, "")
	for _, attribute := range []types.VpcAttributeName{types.VpcAttributeNameEnableDnsSupport, types.VpcAttributeNameEnableDnsHostnames} {
		var out *ec2.DescribeVpcAttributeOutput
		err := c.call(ctx, req, func(ctx context.Context) (err error) {
			out, err = c.ec2.DescribeVpcAttribute(ctx, &ec2.DescribeVpcAttributeInput{VpcId: &vpcID, Attribute: attribute})
			return err
		})
		if err != nil {
			return false, false, err
		}
		support = support || out.EnableDnsSupport != nil && aws.ToBool(out.EnableDnsSupport.Value)
		hostnames = hostnames || out.EnableDnsHostnames != nil && aws.ToBool(out.EnableDnsHostnames.Value)
	}
	return support, hostnames, nil
}

// DescribeDHCPOptions is the action that [Client.DHCPServers] needs.
var DescribeDHCPOptions = Action{Name: "ec2:DescribeDhcpOptions", dryRun: func(ctx context.Context, c *ec2.Client, _ string) error {
	_, err := c.DescribeDhcpOptions(ctx, &ec2.DescribeDhcpOptionsInput{DryRun: aws.Bool(true)})
	return err
}}

// amazonDNS is the DHCP option for AWS's resolver.
const amazonDNS = "AmazonProvidedDNS"

// DHCPServers returns the DNS servers of a DHCP option set other than AWS's resolver.
func (c *Client) DHCPServers(ctx context.Context, id string) (servers []string, err error) {
	req := c.describe(DescribeDHCPOptions, "DHCP option set "+id, "")
	var out *ec2.DescribeDhcpOptionsOutput
	err = c.call(ctx, req, func(ctx context.Context) (err error) {
		out, err = c.ec2.DescribeDhcpOptions(ctx, &ec2.DescribeDhcpOptionsInput{DhcpOptionsIds: []string{id}})
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(out.DhcpOptions) != 1 {
		return nil, req.fail(problem.RoutesUnknown, "", "there is none in "+req.region, "")
	}
	for _, o := range out.DhcpOptions[0].DhcpConfigurations {
		if aws.ToString(o.Key) != "domain-name-servers" {
			continue
		}
		for _, v := range o.Values {
			if s := secret.Clean(aws.ToString(v.Value), maxCode); s != amazonDNS && !slices.Contains(servers, s) {
				servers = append(servers, s)
			}
		}
	}
	return servers, nil
}
