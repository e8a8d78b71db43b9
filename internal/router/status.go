package router

import (
	"slices"

	"subnetrouter/internal/bootstrap/place"
	"subnetrouter/internal/bootstrap/routesource"
	"subnetrouter/internal/eventlog"
	"subnetrouter/internal/forward"
	"subnetrouter/internal/limits"
	"subnetrouter/internal/ops"
	"subnetrouter/internal/secret"
	"subnetrouter/internal/tailnet"
)

// status returns the content of /status.
func (r *Router) status() ops.Status {
	place, routes, found, routesErr := r.lookUps.results()
	reasons := r.notReady()
	out := ops.Status{
		Version:     r.opts.Version,
		Started:     r.started,
		Ready:       len(reasons) == 0,
		Reasons:     append([]ops.Reason{}, reasons...),
		Warnings:    r.warnings(),
		Draining:    r.draining.Load(),
		RoutesFound: found,
		Place:       describePlace(place),
		Node:        ops.Node{State: "NoState", IPs: []string{}},
	}
	if routesErr != nil {
		out.RoutesError = secret.Clean(routesErr.Error(), ops.MaxMessage)
	}
	out.Notes = routes.Notes
	out.DNS = r.describeResolver()
	out.Identity = r.describeIdentity()
	out.DNSRegistration = r.dns.describe()
	out.Access = r.access.status()
	out.Flows = r.describeFlows()
	out.Egress = r.describeEgress()
	var node tailnet.Status
	if r.node.Started() {
		mode, why := r.node.Mode()
		out.Mode = ops.Mode{Name: mode.String(), Why: why}
		node, _ = r.node.Status()
		out.Node = ops.Node{State: node.Backend, Name: node.Name, IPs: []string{}, KeyExpiry: node.KeyExpiry, Health: node.Health}
		for _, ip := range node.IPs {
			out.Node.IPs = append(out.Node.IPs, ip.String())
		}
	}
	out.Routes = describeRoutes(routes, node)
	out.Roles = r.describeRoles(node)
	out.Peers = r.describePeers()
	out.Events = describeEvents(r.events.Events())
	out.Limits = r.describeLimits(out.Flows)
	out.OtherRoutes = r.describeOtherRoutes()
	return out
}

// maxListedFlows bounds the flows that /status lists.
const maxListedFlows = 100

func (r *Router) describeFlows() ops.Flows {
	limit := r.forward.Limit()
	out := ops.Flows{Limit: limit.Flows, LimitPerPeer: limit.FlowsPerPeer, Live: []ops.Flow{}}
	active := r.forward.Active()
	out.TCP, out.UDP = active[forward.TCP], active[forward.UDP]
	for _, f := range r.forward.Flows(maxListedFlows) {
		out.Live = append(out.Live, ops.Flow{
			Protocol: f.Protocol.String(), Client: f.Client.String(), Node: r.node.WhoIs(f.Client.Addr()).Node, Target: f.Target.String(),
			Opened: f.Opened, ToVPCBytes: f.ToVPCBytes, ToTailnetBytes: f.ToTailnetBytes,
		})
	}
	return out
}

// describeEgress returns nil without egress.
func (r *Router) describeEgress() *ops.Egress {
	if r.egress == nil {
		return nil
	}
	now := r.egress.Status()
	out := &ops.Egress{Connections: ops.Use{Used: int64(now.Connections), Limit: int64(now.Limit)}, Targets: []ops.EgressTarget{}}
	for _, t := range now.Targets {
		out.Targets = append(out.Targets, ops.EgressTarget{
			Target: t.Name, Open: t.Open, Opened: t.Opened, ToTailnetBytes: t.ToTailnetBytes, ToVPCBytes: t.ToVPCBytes,
		})
	}
	return out
}

func describePlace(p place.Place) ops.Place {
	return ops.Place{
		Cluster: p.Cluster, Family: p.Family, TaskARN: p.ARN, LaunchType: p.LaunchType,
		Region: p.Region, Zone: p.Zone, VPC: p.VPCID, Subnet: p.SubnetID,
	}
}

// describeRoutes lists the routes that the sources found, with their state in the tailnet.
func describeRoutes(found routesource.Routes, node tailnet.Status) []ops.RouteStatus {
	out := []ops.RouteStatus{}
	for _, p := range found.Advertise {
		out = append(out, ops.RouteStatus{
			Prefix:     p.String(),
			Source:     found.SourceOf(p),
			Advertised: slices.Contains(node.Advertised, p),
			Approved:   slices.Contains(node.Approved, p),
			Primary:    slices.Contains(node.Primary, p),
		})
	}
	for _, r := range found.Refused {
		out = append(out, ops.RouteStatus{Prefix: r.Prefix.String(), Source: r.Source, Refused: r.Reason})
	}
	return out
}

// maxListedPeers bounds the peers that /status lists.
const maxListedPeers = 50

func (r *Router) describePeers() ops.Peers {
	out := ops.Peers{List: []ops.Peer{}}
	list, count := r.node.Peers(maxListedPeers)
	out.Direct, out.Relay = count[tailnet.PathDirect], count[tailnet.PathRelay]
	out.DERP, out.Idle = count[tailnet.PathDERP], count[tailnet.PathIdle]
	out.Total = out.Direct + out.Relay + out.DERP + out.Idle
	for _, s := range list {
		out.List = append(out.List, ops.Peer{
			Name: s.Node, User: s.User, Tags: s.Tags, IP: s.IP.String(), Path: string(s.Path), Via: s.Via,
			LatencySeconds: s.Latency.Seconds(), ToPeerBytes: s.ToPeerBytes, FromPeerBytes: s.FromPeerBytes,
			Handshake: s.Handshake,
		})
	}
	return out
}

// maxOtherRoutes bounds the routes of other nodes that /status lists.
const maxOtherRoutes = 1000

func (r *Router) describeOtherRoutes() []ops.OtherRoute {
	var out []ops.OtherRoute
	for _, o := range r.otherRoutes() {
		out = append(out, ops.OtherRoute{Node: o.Node, Prefix: o.Prefix.String(), Peer: o.Peer})
	}
	return out
}

func describeEvents(events []eventlog.Event) []ops.Event {
	out := make([]ops.Event, 0, len(events))
	for _, e := range events {
		out = append(out, ops.Event{Time: e.Time, Level: e.Level.String(), Message: e.Message, Detail: e.Detail})
	}
	return out
}

func (r *Router) describeLimits(flows ops.Flows) ops.Limits {
	files, filesLimit := limits.OpenFiles(), limits.MaxOpenFiles()
	_, busiest := r.forward.TopClient()
	return ops.Limits{
		Flows:        ops.Use{Used: int64(flows.TCP + flows.UDP), Limit: int64(flows.Limit)},
		FlowsPerPeer: ops.Use{Used: int64(busiest), Limit: int64(flows.LimitPerPeer)},
		MemoryBytes:  ops.Use{Used: limits.ResidentMemory(), Limit: limits.Memory()},
		OpenFiles:    ops.Use{Used: files, Limit: filesLimit},
	}
}
