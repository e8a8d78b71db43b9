package awsapi

import (
	"context"
	"net/netip"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"subnetrouter/internal/problem"
)

// SecurityGroup is a security group with its rules.
type SecurityGroup struct {
	ID, Name        string
	Ingress, Egress []GroupRule
}

// GroupRule allows a protocol to or from addresses, prefix lists and other groups. For ICMP, From
// is the type and To the code; -1 is any.
type GroupRule struct {
	Protocol string // "-1" is any, "tcp", "udp", "icmp", "icmpv6", else a number
	From, To int
	Prefixes []netip.Prefix
	Lists    []string // "pl-..."
	Groups   []string // "sg-..."
}

// DescribeSecurityGroups is the action that [Client.SecurityGroups] needs.
var DescribeSecurityGroups = Action{Name: "ec2:DescribeSecurityGroups", dryRun: func(ctx context.Context, c *ec2.Client, _ string) error {
	_, err := c.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{DryRun: aws.Bool(true)})
	return err
}}

// SecurityGroups returns groups by ID, without those that do not exist or are not visible to the
// caller. Without IDs it makes no call.
func (c *Client) SecurityGroups(ctx context.Context, ids []string) (map[string]SecurityGroup, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	req := c.describe(DescribeSecurityGroups, strings.Join(ids, ", "), "")
	// A filter, since a request by ID fails for all if one does not exist.
	pages := ec2.NewDescribeSecurityGroupsPaginator(c.ec2, &ec2.DescribeSecurityGroupsInput{
		Filters:    []types.Filter{{Name: aws.String("group-id"), Values: ids}},
		MaxResults: aws.Int32(1000), // the most that EC2 takes
	})
	found := map[string]SecurityGroup{}
	for pages.HasMorePages() {
		out, err := nextPage(ctx, c, req, pages.NextPage)
		if err != nil {
			return nil, err
		}
		for _, g := range out.SecurityGroups {
			group := SecurityGroup{ID: aws.ToString(g.GroupId), Name: aws.ToString(g.GroupName)}
			for _, side := range []struct {
				from []types.IpPermission
				to   *[]GroupRule
			}{{g.IpPermissions, &group.Ingress}, {g.IpPermissionsEgress, &group.Egress}} {
				if *side.to, err = groupRules(group.ID, side.from); err != nil {
					return nil, req.fail(problem.RoutesUnknown, "", err.Error(), "")
				}
			}
			found[group.ID] = group
		}
	}
	return found, nil
}

func groupRules(id string, list []types.IpPermission) (rules []GroupRule, err error) {
	for _, p := range list {
		rule := GroupRule{Protocol: aws.ToString(p.IpProtocol), From: -1, To: -1}
		if p.FromPort != nil {
			rule.From = int(*p.FromPort)
		}
		if p.ToPort != nil {
			rule.To = int(*p.ToPort)
		}
		var cidrs []string
		for _, r := range p.IpRanges {
			cidrs = append(cidrs, aws.ToString(r.CidrIp))
		}
		for _, r := range p.Ipv6Ranges {
			cidrs = append(cidrs, aws.ToString(r.CidrIpv6))
		}
		if rule.Prefixes, err = parsePrefixes(id, cidrs); err != nil {
			return nil, err
		}
		for _, r := range p.PrefixListIds {
			rule.Lists = append(rule.Lists, aws.ToString(r.PrefixListId))
		}
		for _, r := range p.UserIdGroupPairs {
			rule.Groups = append(rule.Groups, aws.ToString(r.GroupId))
		}
		rules = append(rules, rule)
	}
	return rules, nil
}
