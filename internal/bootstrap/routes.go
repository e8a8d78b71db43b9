package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"subnetrouter/internal/awsapi"
	"subnetrouter/internal/routes"
)

// Routes is what to advertise and why. Advertise is never empty without an error.
type Routes struct {
	Advertise []netip.Prefix // normalized, without what is excluded
	Explain   []Route        // what was found and kept, before the merge, in the order of the sources
	Refused   []Refusal      // what was found and left out
}

// Route is a prefix that a source gave.
type Route struct {
	Prefix netip.Prefix
	Source string // "vpc vpc-0abc (vpc-cidr-assoc-0def)", "subnet of the task", "ROUTER_ROUTES"
}

// Refusal is a found prefix that is not advertised.
type Refusal struct {
	Prefix netip.Prefix
	Source string
	Reason string
}

// Routes looks every source up. One that fails fails the whole look-up: part
// of an answer would withdraw routes that are in use.
func (b *Bootstrap) Routes(ctx context.Context) (Routes, error) {
	var found []Route
	for _, s := range b.config.Sources {
		rs, err := b.source(ctx, s)
		if err != nil {
			return Routes{}, fmt.Errorf("looking up source %s of ROUTER_ROUTES: %w", s, err)
		}
		found = append(found, rs...)
	}
	if len(found) == 0 {
		return Routes{}, errors.New("choosing routes: ROUTER_ROUTES names no source; set it to vpc, subnet or CIDRs")
	}
	return choose(found, b.config.Exclude)
}

// choose splits what was found into what to advertise and what not.
func choose(found []Route, exclude []netip.Prefix) (Routes, error) {
	var r Routes
	var kept []netip.Prefix
	for _, f := range found {
		reason := refused(f.Prefix)
		if reason == "" && len(routes.Exclude([]netip.Prefix{f.Prefix}, exclude)) == 0 {
			reason = "excluded by ROUTER_EXCLUDE_ROUTES"
		}
		if reason != "" {
			r.Refused = append(r.Refused, Refusal{f.Prefix, f.Source, reason})
			continue
		}
		r.Explain = append(r.Explain, f)
		kept = append(kept, f.Prefix)
	}
	for _, p := range routes.Exclude(routes.Normalize(kept), exclude) {
		// Harmless halves can merge into a default route.
		if reason := refused(p); reason != "" {
			r.Refused = append(r.Refused, Refusal{p, "merged routes", reason})
			continue
		}
		r.Advertise = append(r.Advertise, p)
	}
	if len(r.Advertise) == 0 {
		return Routes{}, fmt.Errorf("choosing routes: none is left: %s; add a source to ROUTER_ROUTES or take a prefix out of ROUTER_EXCLUDE_ROUTES", refusals(r.Refused))
	}
	return r, nil
}

// refused is why p is never advertised, or "".
func refused(p netip.Prefix) string {
	err := routes.Refuse(p)
	if r := (routes.Refusal{}); errors.As(err, &r) {
		return r.Reason
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

func refusals(list []Refusal) string {
	var s []string
	for _, r := range list {
		s = append(s, fmt.Sprintf("%s from %s (%s)", r.Prefix, r.Source, r.Reason))
	}
	return strings.Join(s, ", ")
}

func (b *Bootstrap) source(ctx context.Context, s routes.Source) ([]Route, error) {
	switch s.Kind {
	case routes.Static:
		return []Route{{s.Prefix, "ROUTER_ROUTES"}}, nil
	case routes.Subnet:
		return b.subnet(ctx)
	case routes.VPC:
		return b.vpc(ctx)
	}
	return nil, errors.New("it is not yet supported; use vpc, subnet or CIDRs")
}

// subnet needs no AWS call: the metadata gives the subnet's CIDRs.
func (b *Bootstrap) subnet(ctx context.Context) ([]Route, error) {
	task, err := b.readTask(ctx)
	if err != nil {
		return nil, err
	}
	var found []Route
	for _, p := range task.Network.Subnets() {
		found = append(found, Route{p, "subnet of the task"})
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("task metadata gives no subnet in network mode %q; run the task with network mode awsvpc, or set ROUTER_ROUTES to CIDRs", task.Network.Mode)
	}
	return found, nil
}

func (b *Bootstrap) vpc(ctx context.Context) ([]Route, error) {
	id, err := b.vpcID(ctx)
	if err != nil {
		return nil, err
	}
	client, err := b.client(ctx)
	if err != nil {
		return nil, err
	}
	vpc, err := client.VPC(ctx, id)
	if err != nil {
		return nil, err
	}
	var found []Route
	for _, a := range vpc.Associations {
		found = append(found, Route{a.Prefix, fmt.Sprintf("vpc %s (%s)", id, a.ID)})
	}
	return found, nil
}

// vpcID takes the metadata's word, else asks EC2 whose interface has the task's MAC.
func (b *Bootstrap) vpcID(ctx context.Context) (string, error) {
	task, err := b.readTask(ctx)
	if err != nil {
		return "", err
	}
	if task.VPCID != "" {
		return task.VPCID, nil
	}
	if task.Network.MAC == "" {
		return "", fmt.Errorf("task metadata gives neither VPCID nor MACAddress in network mode %q; run the task with network mode awsvpc, update the ECS agent to 1.63.1 or later, or set ROUTER_ROUTES to CIDRs", task.Network.Mode)
	}
	eni, err := b.eni.get(ctx, func(ctx context.Context) (awsapi.Interface, error) {
		client, err := b.client(ctx)
		if err != nil {
			return awsapi.Interface{}, err
		}
		return client.InterfaceByMAC(ctx, task.Network.MAC)
	})
	return eni.VPCID, err
}
