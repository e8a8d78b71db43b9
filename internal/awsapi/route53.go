package awsapi

import (
	"context"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/route53"
	r53types "github.com/aws/aws-sdk-go-v2/service/route53/types"
	"github.com/aws/aws-sdk-go-v2/service/route53resolver"
	resolvertypes "github.com/aws/aws-sdk-go-v2/service/route53resolver/types"

	"subnetrouter/internal/secret"
)

// Domain is a domain that the VPC's resolver treats in its own way.
type Domain struct {
	Name   string // without the dot at its end; "" is the root
	Source string // "private hosted zone Z0123", "resolver rule rslvr-rr-0123"
}

// ListHostedZonesByVPC is the action that [Client.HostedZones] needs, together with
// ec2:DescribeVpcs, by which Route 53 checks the VPC on the caller's behalf.
var ListHostedZonesByVPC = Action{Name: "route53:ListHostedZonesByVPC"}

// maxPages bounds the pages of an answer of Route 53, each of a hundred items: the quotas are
// far lower.
const maxPages = 50

// listZonesByHand is the fix for zones that cannot be looked up.
const listZonesByHand = "list the domains in ROUTER_DNS_ZONES instead of auto"

// HostedZones returns the private hosted zones that are associated with a VPC, of every
// account.
func (c *Client) HostedZones(ctx context.Context, vpcID string) ([]Domain, error) {
	req := c.describe(ListHostedZonesByVPC, "the private hosted zones of VPC "+vpcID, "")
	req.allow = `allow route53:ListHostedZonesByVPC and ec2:DescribeVpcs on "*" in the task role's policy, or ` + listZonesByHand
	in := &route53.ListHostedZonesByVPCInput{VPCId: &vpcID, VPCRegion: r53types.VPCRegion(c.Region())}
	var found []Domain
	for range maxPages {
		var out *route53.ListHostedZonesByVPCOutput
		err := c.call(ctx, req, func(ctx context.Context) (err error) {
			out, err = c.route53.ListHostedZonesByVPC(ctx, in)
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, z := range out.HostedZoneSummaries {
			source := "private hosted zone " + secret.Clean(aws.ToString(z.HostedZoneId), maxCode)
			if z.Owner != nil && z.Owner.OwningService != nil {
				source += " of " + secret.Clean(*z.Owner.OwningService, maxCode)
			}
			found = append(found, domain(z.Name, source))
		}
		if aws.ToString(out.NextToken) == "" {
			break
		}
		in.NextToken = out.NextToken
	}
	return found, nil
}

func domain(name *string, source string) Domain {
	return Domain{Name: strings.ToLower(strings.TrimSuffix(secret.Clean(aws.ToString(name), maxMessage), ".")), Source: source}
}

// ListResolverRuleAssociations and ListResolverRules are the actions that
// [Client.ResolverRules] needs.
var (
	ListResolverRuleAssociations = Action{Name: "route53resolver:ListResolverRuleAssociations"}
	ListResolverRules            = Action{Name: "route53resolver:ListResolverRules"}
)

// ResolverRules returns the domains that rules associated with a VPC forward to other DNS
// servers. Rules that leave a domain to the VPC's resolver are not among them.
func (c *Client) ResolverRules(ctx context.Context, vpcID string) ([]Domain, error) {
	associated := map[string]bool{} // by the rule's ID
	req := c.describe(ListResolverRuleAssociations, "the resolver rules of VPC "+vpcID, "")
	req.allow += ", or " + listZonesByHand
	pages := route53resolver.NewListResolverRuleAssociationsPaginator(c.resolver, &route53resolver.ListResolverRuleAssociationsInput{
		Filters: []resolvertypes.Filter{{Name: aws.String("VPCId"), Values: []string{vpcID}}},
	})
	for n := 0; n < maxPages && pages.HasMorePages(); n++ {
		out, err := nextPage(ctx, c, req, pages.NextPage)
		if err != nil {
			return nil, err
		}
		for _, a := range out.ResolverRuleAssociations {
			if aws.ToString(a.VPCId) == vpcID {
				associated[aws.ToString(a.ResolverRuleId)] = true
			}
		}
	}
	found, _, err := c.forwarded(ctx, vpcID, associated)
	return found, err
}

// forwarded returns the domains of the rules with these IDs that forward, and which of the rules
// this account can read.
func (c *Client) forwarded(ctx context.Context, vpcID string, ids map[string]bool) (found []Domain, known map[string]bool, err error) {
	known = map[string]bool{}
	req := c.describe(ListResolverRules, "the resolver rules of VPC "+vpcID, "")
	req.allow += ", or " + listZonesByHand
	pages := route53resolver.NewListResolverRulesPaginator(c.resolver, &route53resolver.ListResolverRulesInput{})
	for n := 0; n < maxPages && pages.HasMorePages(); n++ {
		out, err := nextPage(ctx, c, req, pages.NextPage)
		if err != nil {
			return nil, nil, err
		}
		for _, r := range out.ResolverRules {
			known[aws.ToString(r.Id)] = true
			if ids[aws.ToString(r.Id)] && (r.RuleType == resolvertypes.RuleTypeOptionForward || r.RuleType == resolvertypes.RuleTypeOptionDelegate) {
				found = append(found, domain(r.DomainName, "resolver rule "+secret.Clean(aws.ToString(r.Id), maxCode)))
			}
		}
	}
	return found, known, nil
}
