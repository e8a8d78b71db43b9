package router

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"subnetrouter/internal/config"
	"subnetrouter/internal/egress"
	"subnetrouter/internal/forward"
	"subnetrouter/internal/limits"
	"subnetrouter/internal/problem"
	"subnetrouter/internal/tailnet"
)

// The bounds of connections of programs into the tailnet.
const (
	maxEgressConns = 1024
	minEgressConns = 32
)

// egressFiles returns the number of open files of each connection, and of all UDP sessions: in kernel mode, those towards
// the targets are sockets too.
func (r *Router) egressFiles() (conn, sessions int) {
	if r.cfg.Mode == config.ModeKernel {
		return 2, egress.MaxSessions
	}
	return 1, 0
}

// egressConns returns how many connections into the tailnet may be open at once, with a limit of open files: at worst,
// they take a quarter of these. 0 files is an unknown limit.
func (r *Router) egressConns(files int64) int {
	if files == 0 {
		return maxEgressConns
	}
	each, _ := r.egressFiles()
	return int(min(max(files/4/int64(each), minEgressConns), maxEgressConns))
}

// filesOfEgress returns the number of open files that connections into the tailnet need at worst.
func (r *Router) filesOfEgress() int {
	if !r.cfg.OpensIntoTailnet() {
		return 0
	}
	each, sessions := r.egressFiles()
	return each*r.egressConns(limits.MaxOpenFiles()) + sessions
}

// newEgress returns the server for programs that connect into the tailnet, or nil if none is configured.
func (r *Router) newEgress() (*egress.Server, error) {
	if !r.cfg.OpensIntoTailnet() {
		return nil, nil
	}
	cfg := egress.Config{
		SOCKS5: r.cfg.SOCKS5Listen, HTTP: r.cfg.HTTPProxyListen,
		Dial: r.dialTailnet, Opened: r.deny.Opened,
		Connections: r.egressConns(limits.MaxOpenFiles()),
		Memory:      r.forward,
		Registerer:  r.registry,
		Logger:      r.log,
	}
	for _, p := range r.cfg.Egress {
		cfg.Ports = append(cfg.Ports, egress.Port{Listen: p.Listen, UDP: p.UDP, Target: p.Target})
	}
	if r.flowLog != nil {
		cfg.Finished = r.flowLog.finishedEgress
	}
	return egress.New(cfg)
}

// dialTailnet connects a program to a target in the tailnet.
func (r *Router) dialTailnet(ctx context.Context, network, target string) (net.Conn, error) {
	conn, err := r.node.Dial(ctx, network, target)
	switch {
	case errors.Is(err, tailnet.ErrNotInTailnet):
		return nil, fmt.Errorf("%w: %w", egress.ErrForbidden, err)
	case errors.Is(err, forward.ErrTooMany):
		return nil, fmt.Errorf("%w: %w", egress.ErrLimit, err)
	}
	return conn, err
}

// serveEgress serves programs that connect into the tailnet until ctx ends.
func (r *Router) serveEgress(ctx context.Context) error {
	if err := r.egress.Open(); err != nil {
		return err
	}
	r.log.Info("serving connections into the tailnet", "socks5", r.cfg.SOCKS5Listen, "http", r.cfg.HTTPProxyListen, "ports", len(r.cfg.Egress))
	<-ctx.Done()
	r.egress.Close()
	return nil
}

// forwardAllPorts forwards all ports without another use to ROUTER_EGRESS's *=HOST until ctx ends.
func (r *Router) forwardAllPorts(ctx context.Context) error {
	return r.node.ForwardAll(ctx, r.noEgress, r.cfg.EgressAll, r.deny.Ports)
}

// allPortsProblem returns a problem of ROUTER_EGRESS's *=HOST, or nil. It is a reason until ports are forwarded for the first time:
// an application that ECS starts once the router is healthy would fail without its target. Later the last addresses stay, and
// not to be ready would take the router's other functions from their users.
func (r *Router) allPortsProblem(now tailnet.AllPorts) (p *problem.Problem, reason bool) {
	host := r.cfg.EgressAll
	reason = !now.Once
	switch {
	case host == "" || r.draining.Load():
		return nil, false
	case now.Err != nil:
		p = &problem.Problem{Code: problem.EgressUnresolved, Message: fmt.Sprintf("all ports are not forwarded to %s of ROUTER_EGRESS: %v", host, now.Err),
			Fix: "correct the name in ROUTER_EGRESS, let the node join the tailnet, or allow it in the access rules"}
		if errors.Is(now.Err, tailnet.ErrRulesRefused) {
			p.Fix = "let no other program change nftables on this host, and see that its kernel has nftables with NAT; the router tries again every 5 s"
		}
		if len(now.Targets) > 0 {
			p.Message = fmt.Sprintf("ports are forwarded to the last addresses of %s of ROUTER_EGRESS, %s: %v", host, addresses(now.Targets), now.Err)
		}
	case reason:
		p = &problem.Problem{Code: problem.Starting, Message: fmt.Sprintf("the target of ROUTER_EGRESS=*=%s is being looked up", host)}
	}
	return p, reason
}

func addresses(list []netip.Addr) string {
	var text []string
	for _, a := range list {
		text = append(text, a.String())
	}
	return strings.Join(text, " and ")
}

// abandonWait bounds [Router.Abandon]: a router that has lost its identity must stop sending within a second.
const abandonWait = 200 * time.Millisecond

// Abandon removes from the kernel the rules that would outlive the process, if [Router.Run] is not waited for. It takes
// 200 ms at most.
func (r *Router) Abandon() {
	if err := within(abandonWait, "removing the rules that forward all ports", nil, func() error { r.node.EndForwardAll(); return nil }); err != nil {
		r.log.Warn("exiting with rules of netfilter", "err", err, "fix", "run nft delete table ip subnetrouter, and ip6")
	}
}

// drainEgress refuses new connections into the tailnet.
func (r *Router) drainEgress() {
	close(r.noEgress)
	if r.egress != nil {
		r.egress.Drain()
	}
}

// endEgress waits for the connections into the tailnet until ctx ends, and cuts the rest.
func (r *Router) endEgress(ctx context.Context) {
	if r.egress == nil {
		return
	}
	open := r.egress.Wait(ctx)
	r.egress.Close()
	if open > 0 {
		r.log.Warn("connections into the tailnet cut", "connections", open)
	}
}
