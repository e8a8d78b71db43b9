package bootstrap

import (
	"context"
	"net/netip"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/routes"
)

// source is one element of ROUTER_ROUTES, ready to be looked up.
type source interface {
	// find returns what there is now, with what it leaves out by its own
	// judgement. Nothing at all, where there must be something, is an error.
	find(ctx context.Context, b *Bootstrap) (finding, error)
}

// finding is what sources say, before anybody judges it.
type finding struct {
	routes  []Route
	refused []Refusal
}

func (f *finding) add(k routes.Kind, source string, ps ...netip.Prefix) {
	for _, p := range ps {
		f.routes = append(f.routes, Route{Prefix: p.Masked(), Kind: k, Source: source})
	}
}

func (f *finding) refuse(p netip.Prefix, source, reason string) {
	f.refused = append(f.refused, Refusal{Prefix: p, Source: source, Reason: reason})
}

func sourceOf(s routes.Source) source {
	switch s.Kind {
	case routes.VPC:
		return vpcSource{}
	case routes.Subnet:
		return subnetSource{}
	case routes.SubnetsByTag:
		return subnetsSource{tag: s.Tag, value: s.Value}
	case routes.Peerings:
		return peeringsSource{}
	case routes.PrefixList:
		return prefixListSource{id: s.ID}
	}
	return staticSource{prefix: s.Prefix}
}

// staticSource is a CIDR that the operator wrote.
type staticSource struct{ prefix netip.Prefix }

func (s staticSource) find(context.Context, *Bootstrap) (f finding, err error) {
	f.add(routes.Static, "ROUTER_ROUTES", s.prefix)
	return f, nil
}

// networkInterface asks EC2 whose interface has the task's MAC address. It
// tells VPC and subnet, neither of which can change.
func (b *Bootstrap) networkInterface(ctx context.Context, mac string) (awsapi.Interface, error) {
	return b.eni.get(ctx, func(ctx context.Context) (awsapi.Interface, error) {
		client, err := b.client(ctx)
		if err != nil {
			return awsapi.Interface{}, err
		}
		return client.InterfaceByMAC(ctx, mac)
	})
}
