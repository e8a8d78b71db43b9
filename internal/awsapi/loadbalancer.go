package awsapi

import (
	"context"
	"fmt"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	"github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"

	"subnetrouter/internal/problem"
	"subnetrouter/internal/secret"
)

// The actions that [Client.LoadBalancers] needs.
var (
	DescribeLoadBalancers    = Action{Name: "elasticloadbalancing:DescribeLoadBalancers"}
	DescribeLoadBalancerTags = Action{Name: "elasticloadbalancing:DescribeTags"}
)

// maxTagged is the most resources whose tags one call describes.
const maxTagged = 20

// LoadBalancers returns the names of the region's Application and Network Load Balancers
// with a tag, in whose value * and ? are wildcards. An answer without any is an error:
// accepting it would withdraw their routes.
func (c *Client) LoadBalancers(ctx context.Context, tag, value string) ([]Endpoint, error) {
	about := fmt.Sprintf("the load balancers with tag %s=%s", tag, value)
	req := c.describe(DescribeLoadBalancers, about, "")
	names := map[string]Endpoint{} // by ARN
	var arns []string
	pages := elb.NewDescribeLoadBalancersPaginator(c.elb, &elb.DescribeLoadBalancersInput{})
	for pages.HasMorePages() {
		out, err := nextPage(ctx, c, req, pages.NextPage)
		if err != nil {
			return nil, err
		}
		for _, b := range out.LoadBalancers {
			if b.Type == types.LoadBalancerTypeEnumGateway || aws.ToString(b.DNSName) == "" {
				continue // a Gateway Load Balancer has no name
			}
			arn := aws.ToString(b.LoadBalancerArn)
			arns = append(arns, arn)
			names[arn] = Endpoint{Name: *b.DNSName, Resource: "load balancer " + secret.Clean(aws.ToString(b.LoadBalancerName), maxCode)}
		}
	}
	wanted := tagPattern(value)
	var found []Endpoint
	for batch := range slices.Chunk(arns, maxTagged) {
		tagged, err := c.loadBalancerTags(ctx, about, batch)
		if err != nil {
			return nil, err
		}
		for _, t := range tagged {
			b, known := names[aws.ToString(t.ResourceArn)]
			if known && slices.ContainsFunc(t.Tags, func(t types.Tag) bool {
				return aws.ToString(t.Key) == tag && wanted.MatchString(aws.ToString(t.Value))
			}) {
				found = append(found, b)
			}
		}
	}
	if len(found) == 0 {
		return nil, req.fail(problem.RoutesUnknown, "", "there is none", "correct the tag in ROUTER_ROUTES, or tag an Application or Network Load Balancer")
	}
	return found, nil
}

// loadBalancerTags returns the tags of up to [maxTagged] load balancers. If one was deleted
// since it was listed, AWS answers with an error for all, and the next look-up succeeds.
func (c *Client) loadBalancerTags(ctx context.Context, about string, arns []string) (tags []types.TagDescription, err error) {
	err = c.call(ctx, c.describe(DescribeLoadBalancerTags, about, ""), func(ctx context.Context) error {
		out, err := c.elb.DescribeTags(ctx, &elb.DescribeTagsInput{ResourceArns: arns})
		if err == nil {
			tags = out.TagDescriptions
		}
		return err
	})
	return tags, err
}
