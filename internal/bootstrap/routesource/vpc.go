package routesource

import (
	"context"
	"fmt"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/bootstrap/iam"
	"subnetrouter/internal/bootstrap/place"
)

var vpc = &Kind{
	Syntax:     "vpc",
	Help:       "every CIDR associated with the VPC",
	Example:    "vpc",
	NeedsPlace: true,
	parse:      word(VPC{}),
}

// VPC is every CIDR associated with the task's VPC.
type VPC struct{}

func (VPC) String() string { return "vpc" }
func (VPC) kind() *Kind    { return vpc }

// Needs returns the actions of [VPC.find].
func (VPC) Needs() []iam.Need {
	return []iam.Need{
		{Action: awsapi.DescribeNetworkInterfaces, UnlessVPCKnown: true},
		{Action: awsapi.DescribeVPCs},
	}
}

func (VPC) find(ctx context.Context, p *place.Finder) (f finding, err error) {
	vpc, err := p.VPC(ctx)
	if err != nil {
		return f, err
	}
	for _, a := range vpc.Associations {
		f.add(FromAWS, fmt.Sprintf("vpc %s (%s)", vpc.ID, a.ID), a.Prefix)
	}
	return f, nil
}
