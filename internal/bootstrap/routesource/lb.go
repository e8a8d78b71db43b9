package routesource

import (
	"context"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/bootstrap/iam"
	"subnetrouter/internal/bootstrap/place"
)

var lb = &Kind{
	Syntax:  "lb:TAG=VALUE",
	Help:    "the addresses of Application and Network Load Balancers with that tag",
	Example: "lb:tier=private",
	parse: func(s string) (Source, bool, error) {
		tag, value, mine, err := tagged("lb", s, "lb:tier=private")
		if !mine || err != nil {
			return nil, mine, err
		}
		return LB{Tag: tag, Value: value}, true, nil
	},
}

// LB is the region's Application and Network Load Balancers with a tag.
type LB struct{ Tag, Value string }

func (s LB) String() string { return "lb:" + s.Tag + "=" + s.Value }
func (LB) kind() *Kind      { return lb }

// Needs returns the actions of [LB.find]. They have no resource-level permissions.
func (s LB) Needs() []iam.Need {
	return []iam.Need{
		{Action: awsapi.DescribeLoadBalancers},
		{Action: awsapi.DescribeLoadBalancerTags},
	}
}

func (s LB) find(ctx context.Context, p *place.Finder) (f finding, err error) {
	client, err := p.AWS(ctx)
	if err != nil {
		return f, err
	}
	balancers, err := client.LoadBalancers(ctx, s.Tag, s.Value)
	f.followAll(balancers, s.Tag, s.Value)
	return f, err
}
