package bootstrap

import (
	"context"
	"fmt"

	"subnetrouter/internal/problem"
	"subnetrouter/internal/routes"
)

// subnetsSource is the subnets of the task's VPC that carry a tag, so that
// several routers can share a VPC.
type subnetsSource struct{ tag, value string }

func (s subnetsSource) find(ctx context.Context, b *Bootstrap) (f finding, err error) {
	vpcID, err := b.vpcID(ctx)
	if err != nil {
		return f, err
	}
	client, err := b.client(ctx)
	if err != nil {
		return f, err
	}
	subnets, err := client.SubnetsByTag(ctx, vpcID, s.tag, s.value)
	if err != nil {
		return f, err
	}
	for _, subnet := range subnets {
		f.add(routes.SubnetsByTag, fmt.Sprintf("%s (%s=%s)", subnet.ID, s.tag, s.value), subnet.Prefixes...)
	}
	if len(f.routes) == 0 {
		return f, problem.New("wait until one has, or set ROUTER_ROUTES to CIDRs",
			"none of the %d subnets of VPC %s with tag %s=%s has a CIDR in state associated", len(subnets), vpcID, s.tag, s.value)
	}
	return f, nil
}
