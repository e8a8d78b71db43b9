package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"subnetrouter/internal/ecsmeta"
)

// configurationChecks returns one check for each warning of the configuration, with the text
// that `router run` logs. An invalid configuration does not get here.
func (e *exam) configurationChecks() (checks []Check) {
	add := func(r Result) {
		checks = append(checks, Check{"place", "configuration", func(context.Context) Result { return r }})
	}
	for _, w := range e.Config.Warnings {
		add(warn(w, ""))
	}
	if len(checks) == 0 {
		add(pass("all settings are valid"))
	}
	return checks
}

func (e *exam) metadata(ctx context.Context) Result {
	if e.Bootstrap.MetadataURI == "" {
		return skip(ecsmeta.Variable + " is not set: not an ECS task")
	}
	place, err := e.place.Get(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return fail(fmt.Sprintf("no answer in time from %s=%s", ecsmeta.Variable, e.Bootstrap.MetadataURI),
			"allow connections to 169.254.170.2 in the task; ECS sets this variable in every task, elsewhere unset it and set ROUTER_ROUTES to CIDRs")
	}
	if err != nil {
		return failed(err, "")
	}
	return pass(fmt.Sprintf("launch type %s, region %s, zone %s, family %s", orUnknown(place.LaunchType), orUnknown(place.Region), orUnknown(place.Zone), orUnknown(place.Family)))
}

func orUnknown(s string) string { return cmp.Or(s, "unknown") }

// network reports the VPC and subnet, which on Fargate only EC2 knows.
func (e *exam) network(ctx context.Context) Result {
	place, err := e.place.Get(ctx)
	if err != nil || e.Bootstrap.MetadataURI == "" {
		return skip(errNoTask.Error())
	}
	e.routes.Get(ctx) // which asks EC2 if needed
	boot, err := e.boot.Get(ctx)
	if err == nil {
		if again, err := boot.Place(ctx); err == nil {
			place = again
		}
	}
	var parts []string
	add := func(name, value string) {
		if value != "" {
			parts = append(parts, name+" "+value)
		}
	}
	add("VPC", place.VPCID)
	add("subnet", place.SubnetID)
	for _, p := range place.Network.Subnets() {
		add("subnet CIDR", p.String())
	}
	for _, a := range append(place.Network.IPv4, place.Network.IPv6...) {
		add("address", a.String())
	}
	add("mode", place.Network.Mode)
	value := strings.Join(parts, ", ")
	if place.Network.Mode != "awsvpc" {
		return warn(value, "run the task with network mode awsvpc: in other modes task metadata lacks the network, and the router shares its address with other tasks")
	}
	return pass(value)
}

// router reports the state of the router that runs on this host, if any.
func (e *exam) router(ctx context.Context) Result {
	s, err := e.status.Get(ctx)
	if err != nil {
		return skip("no router answers at " + e.Config.LocalURL("/") + ": checks that need a running router are skipped")
	}
	up := time.Since(s.Started).Round(time.Second)
	switch {
	case s.Draining:
		return warn(fmt.Sprintf("%s is draining, up %v", orUnknown(s.Node.Name), up), "")
	case s.Ready:
		return pass(fmt.Sprintf("%s is ready, up %v", orUnknown(s.Node.Name), up))
	}
	var why, fix []string
	for _, r := range s.Reasons {
		why = append(why, string(r.Code)+": "+r.Message)
		if r.Fix != "" {
			fix = append(fix, r.Fix)
		}
	}
	return fail(fmt.Sprintf("not ready, up %v: %s", up, strings.Join(why, "; ")), strings.Join(fix, "; "))
}
