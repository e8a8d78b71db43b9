package router

import (
	"net/netip"
	"slices"

	"subnetrouter/internal/proxyproto"
)

// ProxyHeader returns the PROXY header of a connection to a target of ROUTER_PROXY_PROTOCOL, or nil for other targets. It
// has the addresses as the client sees them: both of one family, also for a 4via6 address.
func (r *Router) ProxyHeader(client, dst, target netip.AddrPort) []byte {
	if !slices.ContainsFunc(r.cfg.ProxyProtocol, func(t proxyproto.Target) bool { return t.Contains(target) }) {
		return nil
	}
	who := r.node.Identify(client.Addr())
	return proxyproto.Header{Client: client, Target: dst, Node: who.Node, User: who.User, Tags: who.Tags}.Bytes()
}
