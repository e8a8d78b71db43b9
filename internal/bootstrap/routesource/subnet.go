package routesource

import (
	"context"

	"subnetrouter/internal/bootstrap/iam"
	"subnetrouter/internal/bootstrap/place"
	"subnetrouter/internal/problem"
)

var subnet = &Kind{
	Syntax:     "subnet",
	Help:       "the task's own",
	Example:    "subnet",
	NeedsPlace: true,
	parse:      word(Subnet{}),
}

// Subnet is the task's own subnet. It needs no AWS call, as task metadata contains the
// subnet's CIDRs.
type Subnet struct{}

func (Subnet) String() string { return "subnet" }
func (Subnet) kind() *Kind    { return subnet }

// Needs returns nothing.
func (Subnet) Needs() []iam.Need { return nil }

func (Subnet) find(ctx context.Context, p *place.Finder) (f finding, err error) {
	task, err := p.Task(ctx)
	if err != nil {
		return f, err
	}
	f.add(FromAWS, "subnet of the task", task.Network.Subnets()...)
	if len(f.routes) == 0 {
		return f, problem.New(needsAWSVPC, "task metadata gives no subnet in network mode %q", task.Network.Mode)
	}
	return f, nil
}

// needsAWSVPC is the fix if a network mode other than awsvpc hides the task's subnet.
const needsAWSVPC = "run the task with network mode awsvpc, or set ROUTER_ROUTES to CIDRs"
