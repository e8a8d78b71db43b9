package awsapi

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"subnetrouter/internal/problem"
)

// NetworkACL is the network ACL of a subnet.
type NetworkACL struct {
	ID      string
	Owner   string // the account that owns the VPC
	Entries []ACLEntry
}

// ACLEntry is an entry of a network ACL. From and To are ports, of TCP and UDP only; Type and Code
// are ICMP's, -1 is any.
type ACLEntry struct {
	Number        int
	Egress, Allow bool
	Protocol      string // a number; "-1" is any
	Prefix        netip.Prefix
	From, To      int
	Type, Code    int
}

// DescribeNetworkACLs is the action that [Client.NetworkACLs] needs.
var DescribeNetworkACLs = Action{Name: "ec2:DescribeNetworkAcls", dryRun: func(ctx context.Context, c *ec2.Client, _ string) error {
	_, err := c.DescribeNetworkAcls(ctx, &ec2.DescribeNetworkAclsInput{DryRun: aws.Bool(true)})
	return err
}}

// NetworkACLs returns the network ACLs of subnets by the subnet's ID.
func (c *Client) NetworkACLs(ctx context.Context, subnets []string) (map[string]NetworkACL, error) {
	if len(subnets) == 0 {
		return nil, nil
	}
	req := c.describe(DescribeNetworkACLs, strings.Join(subnets, ", "), "")
	pages := ec2.NewDescribeNetworkAclsPaginator(c.ec2, &ec2.DescribeNetworkAclsInput{
		Filters:    []types.Filter{{Name: aws.String("association.subnet-id"), Values: subnets}},
		MaxResults: aws.Int32(1000), // the most that EC2 takes
	})
	found := map[string]NetworkACL{}
	for pages.HasMorePages() {
		out, err := nextPage(ctx, c, req, pages.NextPage)
		if err != nil {
			return nil, err
		}
		for _, a := range out.NetworkAcls {
			acl, err := networkACL(a)
			if err != nil {
				return nil, req.fail(problem.RoutesUnknown, "", err.Error(), "")
			}
			for _, association := range a.Associations {
				found[aws.ToString(association.SubnetId)] = acl
			}
		}
	}
	return found, nil
}

func networkACL(a types.NetworkAcl) (NetworkACL, error) {
	acl := NetworkACL{ID: aws.ToString(a.NetworkAclId), Owner: aws.ToString(a.OwnerId)}
	for _, e := range a.Entries {
		entry := ACLEntry{
			Number: int(aws.ToInt32(e.RuleNumber)), Egress: aws.ToBool(e.Egress), Allow: e.RuleAction == types.RuleActionAllow,
			Protocol: aws.ToString(e.Protocol), From: 0, To: 65535, Type: -1, Code: -1,
		}
		if r := e.PortRange; r != nil {
			entry.From, entry.To = int(aws.ToInt32(r.From)), int(aws.ToInt32(r.To))
		}
		if i := e.IcmpTypeCode; i != nil {
			entry.Type, entry.Code = int(aws.ToInt32(i.Type)), int(aws.ToInt32(i.Code))
		}
		cidr := aws.ToString(e.CidrBlock)
		if cidr == "" {
			cidr = aws.ToString(e.Ipv6CidrBlock)
		}
		var err error
		if entry.Prefix, err = netip.ParsePrefix(cidr); err != nil {
			return NetworkACL{}, fmt.Errorf("parsing rule %d of %s: %w", entry.Number, acl.ID, err)
		}
		acl.Entries = append(acl.Entries, entry)
	}
	return acl, nil
}
