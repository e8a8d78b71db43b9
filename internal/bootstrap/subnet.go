package bootstrap

import (
	"context"

	"subnetrouter/internal/problem"
	"subnetrouter/internal/routes"
)

// subnetSource is the task's own subnet. It needs no AWS call, as the metadata
// gives the subnet's CIDRs.
type subnetSource struct{}

func (subnetSource) find(ctx context.Context, b *Bootstrap) (f finding, err error) {
	task, err := b.readTask(ctx)
	if err != nil {
		return f, err
	}
	f.add(routes.Subnet, "subnet of the task", task.Network.Subnets()...)
	if len(f.routes) == 0 {
		return f, problem.New(needsAWSVPC, "task metadata gives no subnet in network mode %q", task.Network.Mode)
	}
	return f, nil
}

// needsAWSVPC is the fix where a network mode other than awsvpc hides the task's subnet.
const needsAWSVPC = "run the task with network mode awsvpc, or set ROUTER_ROUTES to CIDRs"
