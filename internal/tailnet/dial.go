package tailnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"subnetrouter/internal/routes"

	"tailscale.com/wgengine"
)

// ErrNotInTailnet is the error of a dial to an address that [Node.Dial] must not reach.
var ErrNotInTailnet = errors.New("not a target in the tailnet")

// Dial connects from this node to a target in the tailnet, host:port. The network is "tcp" or "udp". The host is the
// name or an address of a node, an address of a route that this node has accepted, or another name, which the system's
// resolver resolves to one of these. The connection has a method CloseWrite if it is TCP.
//
// In userspace mode it is the Forwarder's, and in kernel mode the kernel's: both have this node's address.
func (n *Node) Dial(ctx context.Context, network, target string) (net.Conn, error) {
	if s, _ := n.state.get(); !n.Started() || len(s.IPs) == 0 {
		return nil, fmt.Errorf("connecting to %s: %w", target, errors.New("the router has not joined the tailnet yet"))
	}
	to, _, err := n.sys.Dialer.Get().UserDialPlan(ctx, network, target)
	if err != nil {
		return nil, fmt.Errorf("resolving %s: %w", target, err)
	}
	to = netip.AddrPortFrom(to.Addr().Unmap().WithZone(""), to.Port())
	if err := n.mayDial(network, to); err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", target, err)
	}
	from, ok := n.ownAddress(to.Addr().Is4())
	if !ok {
		return nil, fmt.Errorf("connecting to %s: this node has no address of the family of %v", target, to.Addr())
	}
	switch {
	case n.mode == ModeKernel:
		return dialKernel(ctx, network, from, to)
	case network == "tcp":
		return n.forwarder.DialTCP(ctx, from, to)
	default:
		return n.forwarder.DialUDP(from, to)
	}
}

// mayDial returns an error unless a target is another node, or behind a route of one that this node has accepted. Its
// own routes are those of its VPC: packets to them would leave by way of a peer router, or come back. A node's hand-over
// is no target: a peer router would take the datagram for one of this router.
func (n *Node) mayDial(network string, to netip.AddrPort) error {
	if n.forwarder.Denied(netip.AddrPortFrom(routes.Target(to.Addr()), to.Port())) {
		return fmt.Errorf("%w: %v is on the deny list", ErrNotInTailnet, to)
	}
	p, ok := n.lb.PeerForIP(to.Addr())
	n.mu.Lock()
	own := n.desired
	n.mu.Unlock()
	return judgeTarget(network, to, p, ok, own, n.cfg.AcceptRoutes)
}

// judgeTarget is mayDial for a peer that the engine has found for an address. own is nil while the own routes are unknown.
func judgeTarget(network string, to netip.AddrPort, p wgengine.PeerForIP, found bool, own []netip.Prefix, acceptRoutes bool) error {
	a, hint := to.Addr(), ""
	if !acceptRoutes {
		hint = "; addresses behind other subnet routers need TS_EXTRA_ARGS=--accept-routes"
	}
	switch {
	case !found || p.Route.Bits() == 0: // an exit node is no way into the tailnet
		return fmt.Errorf("%w: no node has %v%s", ErrNotInTailnet, a, hint)
	case p.IsSelf:
		return fmt.Errorf("%w: %v is this router", ErrNotInTailnet, a)
	case slices.Contains(p.Node.Addresses().AsSlice(), netip.PrefixFrom(a, a.BitLen())):
		if network == "udp" && to.Port() == HandoverPort {
			return fmt.Errorf("%w: UDP port %d of nodes is for messages between routers", ErrNotInTailnet, HandoverPort)
		}
		return nil
	case !acceptRoutes:
		return fmt.Errorf("%w: %v is behind %s%s", ErrNotInTailnet, a, p.Node.ComputedName(), hint)
	case own == nil:
		return fmt.Errorf("%w: %v is behind %s, and the router does not know its own routes yet", ErrNotInTailnet, a, p.Node.ComputedName())
	case slices.ContainsFunc(own, func(r netip.Prefix) bool { return r.Overlaps(p.Route) || r.Contains(a) }):
		return fmt.Errorf("%w: %v is in a route of this router; connect to it without the proxy", ErrNotInTailnet, a)
	}
	return nil
}
