package router

import (
	"subnetrouter/internal/eventlog"
	"subnetrouter/internal/limits"
	"subnetrouter/internal/ops"
	"subnetrouter/internal/tailnet"
)

// listedPeers is how many peers /status lists.
const listedPeers = 50

func (r *Router) describePeers() ops.Peers {
	out := ops.Peers{List: []ops.Peer{}}
	list, count := r.node.Peers(listedPeers)
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

// otherRoutes is how many routes of other nodes /status lists.
const otherRoutes = 1000

func (r *Router) describeOthers() []ops.OtherRoute {
	var out []ops.OtherRoute
	for _, o := range r.node.PeerRoutes(otherRoutes) {
		out = append(out, ops.OtherRoute{Node: o.Node, Prefix: o.Prefix.String()})
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
