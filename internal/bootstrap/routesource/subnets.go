package routesource

import (
	"context"
	"fmt"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/bootstrap/iam"
	"subnetrouter/internal/bootstrap/place"
	"subnetrouter/internal/problem"
)

var subnets = &Kind{
	Syntax:     "subnets:TAG=VALUE",
	Help:       "the VPC's subnets with that tag, in which * and ? are wildcards",
	Example:    "subnets:tier=private",
	NeedsPlace: true,
	parse: func(s string) (Source, bool, error) {
		tag, value, mine, err := tagged("subnets", s, "subnets:tier=private")
		if !mine || err != nil {
			return nil, mine, err
		}
		return Subnets{Tag: tag, Value: value}, true, nil
	},
}

// Subnets is the subnets of the task's VPC with a tag, so that several routers can share a
// VPC.
type Subnets struct{ Tag, Value string }

func (s Subnets) String() string { return "subnets:" + s.Tag + "=" + s.Value }
func (Subnets) kind() *Kind      { return subnets }

// Needs returns the actions of [Subnets.find].
func (s Subnets) Needs() []iam.Need {
	return []iam.Need{
		{Action: awsapi.DescribeNetworkInterfaces, UnlessVPCKnown: true},
		{Action: awsapi.DescribeSubnets},
	}
}

func (s Subnets) find(ctx context.Context, p *place.Finder) (f finding, err error) {
	vpcID, err := p.VPCID(ctx)
	if err != nil {
		return f, err
	}
	client, err := p.AWS(ctx)
	if err != nil {
		return f, err
	}
	subnets, err := client.SubnetsByTag(ctx, vpcID, s.Tag, s.Value)
	if err != nil {
		return f, err
	}
	for _, subnet := range subnets {
		f.add(FromAWS, fmt.Sprintf("%s (%s=%s)", subnet.ID, s.Tag, s.Value), subnet.Prefixes...)
	}
	if len(f.routes) == 0 {
		return f, problem.New("wait until one has, or set ROUTER_ROUTES to CIDRs",
			"none of the %d subnets of VPC %s with tag %s=%s has a CIDR in state associated", len(subnets), vpcID, s.Tag, s.Value)
	}
	return f, nil
}
