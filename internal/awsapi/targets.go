package awsapi

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"subnetrouter/internal/problem"
)

// TargetInterface is a network interface with its AWS identity.
type TargetInterface struct {
	ID, VPCID string
	Instance  string // the instance that it is attached to; "" is none
	Groups    []GroupRef
	Tags      map[string]string // of the interface, not of the instance
	Addrs     []netip.Addr
	Prefixes  []netip.Prefix // delegated to the interface
}

// GroupRef names a security group.
type GroupRef struct{ ID, Name string }

// pageSize is the most items that EC2 returns in one page.
const pageSize = 1000

// TargetInterfaces returns the interfaces in a VPC, in AWS's order. An answer without any is an error: the
// router has one, and accepting the answer would take access away.
func (c *Client) TargetInterfaces(ctx context.Context, vpcID string) ([]TargetInterface, error) {
	req := c.describe(DescribeNetworkInterfaces, "the interfaces of VPC "+vpcID, "")
	pages := ec2.NewDescribeNetworkInterfacesPaginator(c.ec2, &ec2.DescribeNetworkInterfacesInput{
		Filters:    []types.Filter{{Name: aws.String("vpc-id"), Values: []string{vpcID}}},
		MaxResults: aws.Int32(pageSize),
	})
	var list []TargetInterface
	for pages.HasMorePages() {
		out, err := nextPage(ctx, c, req, pages.NextPage)
		if err != nil {
			return nil, err
		}
		for _, n := range out.NetworkInterfaces {
			i, err := targetInterface(n)
			if err != nil {
				return nil, req.fail(problem.RoutesUnknown, "", err.Error(), "")
			}
			list = append(list, i)
		}
	}
	if len(list) == 0 {
		return nil, req.fail(problem.RoutesUnknown, "", "the answer has none, not even the router's own",
			"check that AWS_REGION and the credentials are the task's own")
	}
	return list, nil
}

func targetInterface(n types.NetworkInterface) (TargetInterface, error) {
	i := TargetInterface{ID: aws.ToString(n.NetworkInterfaceId), VPCID: aws.ToString(n.VpcId), Tags: map[string]string{}}
	if n.Attachment != nil {
		i.Instance = aws.ToString(n.Attachment.InstanceId)
	}
	for _, g := range n.Groups {
		i.Groups = append(i.Groups, GroupRef{aws.ToString(g.GroupId), aws.ToString(g.GroupName)})
	}
	for _, t := range n.TagSet {
		i.Tags[aws.ToString(t.Key)] = aws.ToString(t.Value)
	}
	var addrs, prefixes []string
	for _, a := range n.PrivateIpAddresses {
		addrs = append(addrs, aws.ToString(a.PrivateIpAddress))
	}
	for _, a := range n.Ipv6Addresses {
		addrs = append(addrs, aws.ToString(a.Ipv6Address))
	}
	for _, p := range n.Ipv4Prefixes {
		prefixes = append(prefixes, aws.ToString(p.Ipv4Prefix))
	}
	for _, p := range n.Ipv6Prefixes {
		prefixes = append(prefixes, aws.ToString(p.Ipv6Prefix))
	}
	for _, s := range addrs {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return i, fmt.Errorf("parsing an address of %s: %w", i.ID, err)
		}
		i.Addrs = append(i.Addrs, a)
	}
	var err error
	i.Prefixes, err = parsePrefixes(i.ID, prefixes)
	return i, err
}

// DescribeTags is the action that [Client.InstanceTags] needs.
var DescribeTags = Action{Name: "ec2:DescribeTags", dryRun: func(ctx context.Context, c *ec2.Client, _ string) error {
	_, err := c.DescribeTags(ctx, &ec2.DescribeTagsInput{DryRun: aws.Bool(true)})
	return err
}}

// maxFilterValues is the most values that a filter of EC2 may have.
const maxFilterValues = 200

// InstanceTags returns the tags of instances, by instance. It asks for the tags alone: descriptions of instances
// are several times as long.
func (c *Client) InstanceTags(ctx context.Context, instances []string) (map[string]map[string]string, error) {
	req := c.describe(DescribeTags, "the tags of instances", "")
	found := map[string]map[string]string{}
	for batch := range slices.Chunk(instances, maxFilterValues) {
		pages := ec2.NewDescribeTagsPaginator(c.ec2, &ec2.DescribeTagsInput{
			Filters:    []types.Filter{{Name: aws.String("resource-id"), Values: batch}},
			MaxResults: aws.Int32(pageSize),
		})
		for pages.HasMorePages() {
			out, err := nextPage(ctx, c, req, pages.NextPage)
			if err != nil {
				return nil, err
			}
			for _, t := range out.Tags {
				id := aws.ToString(t.ResourceId)
				if found[id] == nil {
					found[id] = map[string]string{}
				}
				found[id][aws.ToString(t.Key)] = aws.ToString(t.Value)
			}
		}
	}
	return found, nil
}
