package bootstrap

import (
	"context"
	"fmt"

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
		return f, fmt.Errorf("task metadata gives no subnet in network mode %q; run the task with network mode awsvpc, or set ROUTER_ROUTES to CIDRs", task.Network.Mode)
	}
	return f, nil
}
