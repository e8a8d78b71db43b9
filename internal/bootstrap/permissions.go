package bootstrap

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/bootstrap/iam"
	"subnetrouter/internal/ecsmeta"
	"subnetrouter/internal/why"
	"subnetrouter/internal/why/gather"
)

// needs returns the AWS actions that a router with this configuration may call. The
// sources declare them; policy, metrics and dry runs derive from this list.
func (c Config) needs() []iam.Need {
	needs := slices.Concat(c.Credential.Needs(), c.Routes.Needs(), c.Identity.Needs(), c.Zones.Needs(), c.Targets.Needs())
	if c.DNSRegister { // see ScaledIn
		needs = append(needs, iam.SeeService()...)
	}
	return needs
}

// Actions lists the AWS actions that a router with this configuration may call, by their
// IAM names. vpcKnown reports that task metadata contains the VPC, as on EC2; if it does
// not, there is one more action.
func Actions(c Config, vpcKnown bool) (list []string) {
	for _, a := range iam.Actions(c.needs(), vpcKnown) {
		list = append(list, a.Name)
	}
	return list
}

// Policy returns the policy that the task role needs, derived from the configuration and,
// on ECS, from task metadata; it does not call AWS. Unknown parts of an ARN, such as the
// account of a secret given by name, are "*". kmsKey is the KMSKey of [iam.Scope].
// more are needs of other parts, such as those of [Bootstrap.Network].
func (b *Bootstrap) Policy(ctx context.Context, region, kmsKey string, more ...iam.Need) (iam.Policy, error) {
	var task ecsmeta.Task // not Place, whose VPC may come from EC2
	if b.place.OnECS() {
		var err error
		if task, err = b.place.Task(ctx); err != nil {
			return iam.Policy{}, err
		}
	}
	if region == "" {
		region = task.Region
	}
	scope := iam.NewScope(region, task.ARN, b.config.Credential.Stored())
	scope.KMSKey, scope.ServiceName = kmsKey, task.Service
	return iam.NewPolicy(append(b.config.needs(), more...), task.VPCID != "", scope), nil
}

// Caller returns the identity that signs AWS calls, and their region.
func (b *Bootstrap) Caller(ctx context.Context) (caller awsapi.Caller, region string, err error) {
	client, err := b.place.AWS(ctx)
	if err != nil {
		return awsapi.Caller{}, "", err
	}
	caller, err = client.Caller(ctx)
	return caller, client.Region(), err
}

// Permitted returns nil if a dry run shows that an action of [Actions] is allowed. It
// returns [awsapi.ErrNoDryRun] if AWS offers no dry run of the action.
func (b *Bootstrap) Permitted(ctx context.Context, action string) error {
	for _, n := range b.config.needs() {
		if n.Action.Name != action {
			continue
		}
		if err := b.permitted(ctx, n); !errors.Is(err, awsapi.ErrNoDryRun) {
			return err
		}
	}
	return awsapi.ErrNoDryRun
}

func (b *Bootstrap) permitted(ctx context.Context, n iam.Need) error {
	if !n.Action.HasDryRun(n.Try) { // then AWS need not be configured
		return awsapi.ErrNoDryRun
	}
	client, err := b.place.AWS(ctx)
	if err != nil {
		return err
	}
	return client.Permitted(ctx, n.Action, n.Try)
}

// Network reads the facts about the way from the task, whose interface has a MAC address, to a
// target: see [gather.Network].
func (b *Bootstrap) Network(ctx context.Context, mac string, target netip.Addr) (*why.Network, error) {
	client, err := b.place.AWS(ctx)
	if err != nil {
		return nil, err
	}
	return gather.Network(ctx, client, mac, target), nil
}
