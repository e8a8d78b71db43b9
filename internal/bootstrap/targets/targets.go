// Package targets finds the network interfaces of the VPC and the tags of their instances, by which package
// access knows the AWS identity of targets.
package targets

import (
	"context"
	"slices"

	"subnetrouter/internal/access"
	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/bootstrap/iam"
	"subnetrouter/internal/bootstrap/place"
	"subnetrouter/internal/problem"
)

// Settings is the part of the configuration that asks for targets.
type Settings struct {
	Wanted bool // ROUTER_ACCESS is not off
}

// Needs returns the actions of [Finder.Find].
func (s Settings) Needs() []iam.Need {
	if !s.Wanted {
		return nil
	}
	return []iam.Need{{Action: awsapi.DescribeNetworkInterfaces}, {Action: awsapi.DescribeTags}}
}

// Finder finds targets. It is safe for concurrent use.
type Finder struct{ place *place.Finder }

// New returns a Finder. It looks nothing up.
func New(p *place.Finder) *Finder { return &Finder{p} }

// Find looks up the targets in the router's VPC. A look-up of which a part fails fails as a whole: targets
// without their tags would lose their clients.
func (f *Finder) Find(ctx context.Context) (*access.Inventory, error) {
	vpcID, interfaces, err := f.find(ctx)
	if err != nil {
		return nil, problem.Wrapf(err, "looking up the targets of ROUTER_ACCESS")
	}
	return access.NewInventory(vpcID, interfaces), nil
}

func (f *Finder) find(ctx context.Context) (vpcID string, interfaces []access.Interface, err error) {
	if vpcID, err = f.place.VPCID(ctx); err != nil {
		return "", nil, err
	}
	client, err := f.place.AWS(ctx)
	if err != nil {
		return "", nil, err
	}
	found, err := client.TargetInterfaces(ctx, vpcID)
	if err != nil {
		return "", nil, err
	}
	var instances []string
	for _, n := range found {
		if n.Instance != "" {
			instances = append(instances, n.Instance)
		}
	}
	slices.Sort(instances)
	tags, err := client.InstanceTags(ctx, slices.Compact(instances))
	if err != nil {
		return "", nil, err
	}
	for _, n := range found {
		i := access.Interface{ID: n.ID, VPC: n.VPCID, Tags: n.Tags, InstanceTags: tags[n.Instance], Addrs: n.Addrs, Prefixes: n.Prefixes}
		for _, g := range n.Groups {
			i.Groups = append(i.Groups, access.Group(g))
		}
		interfaces = append(interfaces, i)
	}
	return vpcID, interfaces, nil
}
