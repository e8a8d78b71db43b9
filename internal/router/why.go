package router

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"subnetrouter/internal/forward"
	"subnetrouter/internal/ops"
	"subnetrouter/internal/problem"
	"subnetrouter/internal/routes"
	"subnetrouter/internal/tailnet"
	"subnetrouter/internal/why"
)

const (
	// whyGather bounds the calls to AWS for one question, in which throttled calls are retried.
	whyGather = 12 * time.Second
	// whyProbe bounds the connection to the target. A TCP SYN that is lost is sent again after 1 s.
	whyProbe = 3 * time.Second
	// maxWhyClients bounds the nodes of a user about which a question may be.
	maxWhyClients = 50
)

// why answers a question about a flow. It resolves the target's name, then reads from AWS and
// connects to the target at the same time.
func (r *Router) why(ctx context.Context, asked ops.WhyQuestion) (any, error) {
	protocol := why.Protocol(asked.Protocol)
	switch protocol {
	case "":
		protocol = why.TCP
	case why.TCP, why.UDP, why.ICMP:
	default:
		return nil, fmt.Errorf("protocol %q is not valid: use tcp, udp or icmp", asked.Protocol)
	}
	q, err := why.Ask(asked.Target, asked.From, protocol)
	if err != nil {
		return nil, err
	}
	f := why.Facts{Question: q}
	r.findRoutes(&f)
	r.findTarget(ctx, &f)
	if !f.Target.IsValid() {
		return why.Explain(f), nil
	}
	f.Member = r.member()
	f.Clients, f.Filter = r.findFilter(f)
	f.Denied = r.deniedBecause(f)
	f.Limits = r.findLimits(f)
	f.Access = r.access.why(f)
	facts := f // the reads write to f at the same time
	var reads sync.WaitGroup
	reads.Go(func() { f.Network = r.findNetwork(ctx, facts) })
	reads.Go(func() { f.Probe = r.probeOnce(ctx, facts) })
	reads.Wait()
	return why.Explain(f), nil
}

// findTarget resolves the name of a question. Of several addresses it takes the first for which
// there is a route.
func (r *Router) findTarget(ctx context.Context, f *why.Facts) {
	addrs := []netip.Addr{}
	if a, err := netip.ParseAddr(f.Question.Host); err == nil {
		addrs = append(addrs, a.Unmap().WithZone(""))
	} else {
		ctx, cancel := context.WithTimeout(ctx, whyProbe)
		defer cancel()
		found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", f.Question.Host)
		f.Name.Server = "this task's resolver"
		if err != nil {
			f.Name.Err, f.Name.Fix = dnsCause(err), "check the name; for a name of a private zone, associate the zone with the VPC"
			return
		}
		for _, a := range found {
			addrs = append(addrs, a.Unmap())
		}
		f.Name.Addrs = addrs
	}
	for i, a := range addrs {
		to := a
		if site := r.cfg.Routes.Site; site != nil && a.Is4() {
			if via, err := routes.Via(*site, netip.PrefixFrom(a, 32)); err == nil {
				to = via.Addr()
			}
		}
		routed := isRouted(f, to)
		if i == 0 || routed {
			f.Address, f.Target = to, routes.Target(a)
		}
		if routed {
			return
		}
	}
}

// isRouted reports whether a route of this router contains an address.
func isRouted(f *why.Facts, a netip.Addr) bool {
	return slices.ContainsFunc(f.Routes.Value, func(r why.Route) bool { return r.Prefix.Contains(a) && r.Refused == "" })
}

func dnsCause(err error) string {
	if d, ok := errors.AsType[*net.DNSError](err); ok {
		return d.Err
	}
	return err.Error()
}

func (r *Router) member() why.Member {
	if r.draining.Load() {
		return why.Member{Problem: "the router is stopping", Fix: "ask another router of the service"}
	}
	if !r.node.Started() {
		return why.Member{State: "NoState"}
	}
	s, _ := r.node.Status()
	m := why.Member{Running: s.Running() && !s.Removed, State: s.Backend}
	for _, reason := range r.memberReasons(s) {
		m.Problem, m.Fix = reason.Message, reason.Fix
		break
	}
	return m
}

func (r *Router) memberReasons(s tailnet.Status) (list []ops.Reason) {
	addMemberReasons(s, func(p *problem.Problem) { list = append(list, ops.ReasonOf(p)) })
	return list
}

// findRoutes adds the routes that the sources found, and those of other nodes.
func (r *Router) findRoutes(f *why.Facts) {
	_, found, at, err := r.lookUps.results()
	if at.IsZero() {
		reason := "they are being looked up"
		if err != nil {
			reason = err.Error()
		}
		f.Routes.Missing = why.Missing{Reason: reason, Fix: "run `router doctor`"}
		return
	}
	var node tailnet.Status
	if r.node.Started() {
		node, _ = r.node.Status()
	}
	held := ""
	if r.heldBack.Load() {
		held = "the probes of ROUTER_PROBE fail here and pass at a peer router"
	}
	for _, p := range found.Advertise {
		f.Routes.Value = append(f.Routes.Value, why.Route{
			Prefix: p, Source: found.SourceOf(p), HeldBack: held,
			Advertised: slices.Contains(node.Advertised, p), Approved: slices.Contains(node.Approved, p), Primary: slices.Contains(node.Primary, p),
		})
	}
	for _, refused := range found.Refused {
		f.Routes.Value = append(f.Routes.Value, why.Route{Prefix: refused.Prefix, Source: refused.Source, Refused: refused.Reason})
	}
	if r.node.Started() {
		f.Others = r.otherRoutes()
	}
}

// otherRoutes returns the routes of other nodes, and which of them are peer routers.
func (r *Router) otherRoutes() (list []why.OtherRoute) {
	for _, o := range r.node.PeerRoutes(maxOtherRoutes) {
		list = append(list, why.OtherRoute{Prefix: o.Prefix, Node: o.Node, Peer: o.Tagged})
	}
	return list
}

// findFilter returns the entries of the tailnet's packet filter, and the nodes of --from.
func (r *Router) findFilter(f why.Facts) (clients why.Fact[[]why.Client], filter why.Fact[[]why.Entry]) {
	entries, ok := r.node.PacketFilter()
	if !ok {
		filter.Missing = why.Missing{Reason: "control has sent no packet filter yet", Fix: "wait until the router is ready"}
	}
	for _, e := range entries {
		entry := why.Entry{Protocols: e.Protocols, Sources: e.Sources, Caps: e.Caps}
		for _, t := range e.Targets {
			entry.Targets = append(entry.Targets, why.PortRange(t))
		}
		filter.Value = append(filter.Value, entry)
	}
	if f.Question.From == "" {
		return clients, filter
	}
	for _, c := range r.node.FindClients(f.Question.From, maxWhyClients) {
		clients.Value = append(clients.Value, why.Client{Node: c.Node, User: c.User, Addrs: c.Addrs, Caps: c.Caps, Refused: c.Refused})
	}
	return clients, filter
}

// deniedBecause returns the reason why the deny list has the target, or "".
func (r *Router) deniedBecause(f why.Facts) string {
	if reason, denied := routes.Denied(f.Target); denied {
		return "its range is " + reason
	}
	if r.deny.Denied(netip.AddrPortFrom(f.Target, f.Question.Port)) {
		return fmt.Sprintf("port %d there may be a listener of this router or of a peer router", f.Question.Port)
	}
	return ""
}

func (r *Router) findLimits(f why.Facts) []why.Limit {
	limit, active := r.forward.Limit(), r.forward.Active()
	if f.Question.Protocol == why.ICMP {
		return nil
	}
	list := []why.Limit{{
		Name: "flows", Used: int64(active[forward.TCP] + active[forward.UDP]), Limit: int64(limit.Flows),
		Fix: "raise ROUTER_MAX_FLOWS or the task's memory, or run more routers",
	}}
	client, flows := r.forward.TopClient()
	for _, c := range f.Clients.Value {
		if slices.Contains(c.Addrs, client) {
			list = append(list, why.Limit{
				Name: "flows of " + c.Node, Used: int64(flows), Limit: int64(limit.FlowsPerPeer), Fix: "raise ROUTER_MAX_FLOWS_PER_PEER",
			})
		}
	}
	return list
}

// findNetwork reads the facts from AWS, if the router runs on ECS.
func (r *Router) findNetwork(ctx context.Context, f why.Facts) *why.Network {
	ctx, cancel := context.WithTimeout(ctx, whyGather)
	defer cancel()
	n := &why.Network{}
	if r.cfg.MetadataURI == "" {
		return nil
	}
	place, err := r.lookUps.boot.Place(ctx)
	if err == nil {
		n, err = r.lookUps.boot.Network(ctx, place.Network.MAC, f.Target)
	}
	if err != nil {
		n = &why.Network{}
		n.Task.Interface.Missing = why.Missing{Reason: err.Error(), Fix: "run `router doctor`"}
	}
	n.First, n.Last = r.sourcePorts(f.Question.Protocol)
	return n
}

// sourcePorts returns the range of the ports to which replies go. A flow of UDP keeps its client's
// port, as every flow does in kernel mode: clients take them from 32768 or higher.
func (r *Router) sourcePorts(p why.Protocol) (first, last uint16) {
	mode, _ := r.node.Mode()
	if p == why.TCP && mode == tailnet.ModeUserspace {
		if text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
			if ports := strings.Fields(string(text)); len(ports) == 2 {
				a, errA := strconv.ParseUint(ports[0], 10, 16)
				b, errB := strconv.ParseUint(ports[1], 10, 16)
				if errA == nil && errB == nil && a <= b {
					return uint16(a), uint16(b)
				}
			}
		}
		return 32768, 60999 // Linux's default
	}
	return 32768, 65535
}

// probeOnce connects to the target as a flow would, which includes the deny list. Without a route to
// the target there would be no flow.
func (r *Router) probeOnce(ctx context.Context, f why.Facts) why.Probe {
	if !isRouted(&f, f.Address) {
		return why.Probe{Err: "not tried: no route of this router contains " + f.Address.String()}
	}
	if f.Denied != "" {
		return why.Probe{Err: "the deny list applies to probes too"}
	}
	ctx, cancel := context.WithTimeout(ctx, whyProbe)
	defer cancel()
	to := netip.AddrPortFrom(f.Target, f.Question.Port)
	start := time.Now()
	var err error
	switch f.Question.Protocol {
	case why.TCP:
		err = r.forward.Dial(ctx, to)
	case why.UDP:
		err = r.probeUDP(ctx, to)
	case why.ICMP:
		err = r.forward.Ping(ctx, f.Target)
	}
	p := why.Probe{Outcome: outcomeOf(err), Took: time.Since(start)}
	if err != nil {
		p.Err = err.Error()
	}
	return p
}

// rootQuery is a DNS query for the name servers of the root, which every DNS server answers.
var rootQuery = []byte{0x77, 0x68, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1}

// probeUDP sends a datagram, an empty one except to a DNS server, and waits for any answer.
func (r *Router) probeUDP(ctx context.Context, to netip.AddrPort) error {
	conn, err := r.forward.DialConn(ctx, "udp", to)
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	var message []byte
	if to.Port() == dnsPort {
		message = rootQuery
	}
	if _, err = conn.Write(message); err == nil {
		_, err = conn.Read(make([]byte, 1))
	}
	return err
}

func outcomeOf(err error) why.Outcome {
	is := func(list ...error) bool {
		return slices.ContainsFunc(list, func(target error) bool { return errors.Is(err, target) })
	}
	var timeout net.Error
	switch {
	case err == nil:
		return why.Answered
	case is(forward.ErrNoPing): // before the system's own codes, which a network answers with, too
		return "" // nothing was sent
	case is(syscall.ECONNREFUSED, syscall.ECONNRESET):
		return why.Refused
	case is(syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EACCES, syscall.EPERM, syscall.EINVAL, syscall.ENOPROTOOPT):
		return why.Unreachable
	case is(syscall.ETIMEDOUT, context.DeadlineExceeded, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return why.Silent
	}
	return why.Failed
}
