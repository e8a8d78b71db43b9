package bootstrap

import (
	"context"
	"fmt"

	"subnetrouter/internal/problem"
	"subnetrouter/internal/routes"
)

// vpcSource is every CIDR associated with the task's VPC.
type vpcSource struct{}

func (vpcSource) find(ctx context.Context, b *Bootstrap) (f finding, err error) {
	id, err := b.vpcID(ctx)
	if err != nil {
		return f, err
	}
	client, err := b.client(ctx)
	if err != nil {
		return f, err
	}
	vpc, err := client.VPC(ctx, id)
	if err != nil {
		return f, err
	}
	b.primary.Store(&vpc.Primary)
	for _, a := range vpc.Associations {
		f.add(routes.VPC, fmt.Sprintf("vpc %s (%s)", id, a.ID), a.Prefix)
	}
	return f, nil
}

// vpcID takes the metadata's word, else EC2's.
func (b *Bootstrap) vpcID(ctx context.Context) (string, error) {
	task, err := b.readTask(ctx)
	if err != nil {
		return "", err
	}
	if task.VPCID != "" {
		return task.VPCID, nil
	}
	if task.Network.MAC == "" {
		return "", problem.New("run the task with network mode awsvpc, update the ECS agent to 1.63.1 or later, or set ROUTER_ROUTES to CIDRs",
			"task metadata gives neither VPCID nor MACAddress in network mode %q", task.Network.Mode)
	}
	eni, err := b.networkInterface(ctx, task.Network.MAC)
	return eni.VPCID, err
}
