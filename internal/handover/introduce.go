package handover

import (
	"context"
	"net/netip"
	"time"

	"subnetrouter/internal/backoff"
	"subnetrouter/internal/packet"
)

// Client is a client of this router and an address behind the router that it has a flow to,
// as the client sees it.
type Client struct{ Addr, Target netip.Addr }

const (
	// maxIntroduced bounds the clients of one drain that are introduced.
	maxIntroduced = 4096
	// introduceBatch packets are sent at once, every readEvery: a socket's receive buffer of
	// 208 KiB holds some 250 small datagrams.
	introduceBatch = 64
	// introductionTime is how long an introduction may take: more than the way from one
	// router to the other and on to a client, over a DERP server if need be.
	introductionTime = 250 * time.Millisecond
)

// Introduce makes the helpers of a drain open WireGuard sessions with clients of this router,
// and waits until they should have them. It is called after [Coordinator.BeginDrain] found
// helpers, and before the routes are withdrawn.
//
// A client that moves to the successor would open the session itself, at the moment at which
// the successor sends it the first packet of a relayed flow. When the first messages of two
// handshakes cross, WireGuard drops both, and repeats one after 5 s. Until then all flows of
// the client would stall.
//
// An introduction is a packet for the client that goes by way of the helper: an echo reply
// that nothing asked for. While this router has the route the client drops it, since it comes
// from the wrong node, but only after the handshake. If it comes late, the client's kernel
// ignores it. Versions that know nothing of introductions pass it on as well.
func (c *Coordinator) Introduce(ctx context.Context, clients []Client) {
	helpers := c.helpers()
	seen := make(map[netip.Addr]bool, len(clients))
	sent := 0
	for _, cl := range clients {
		if seen[cl.Addr] || cl.Addr.Is4() != cl.Target.Is4() {
			continue
		}
		if len(seen) == maxIntroduced {
			break
		}
		seen[cl.Addr] = true
		message := append([]byte{kindForClient}, echoReply(cl.Target, cl.Addr)...)
		for _, to := range helpers {
			c.cfg.Send(to, message)
			if sent++; sent%introduceBatch == 0 {
				backoff.Sleep(ctx, readEvery)
			}
		}
	}
	if sent > 0 {
		backoff.Sleep(ctx, introductionTime)
	}
}

// helpers returns the addresses of the routers that offered help in the drain.
func (c *Coordinator) helpers() (list []netip.Addr) {
	now := time.Now()
	nodes := c.peers.Load().nodes
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range nodes {
		h, known := c.states[n.addr()]
		if known && now.Sub(h.at) < silentAfter && h.state.helps(c.servedRoutes) {
			list = append(list, n.addr())
		}
	}
	return list
}

// echoReply returns an IP packet with an ICMP echo reply without data. Its identifier and
// sequence number are 0, which no ping of Linux, macOS or Windows uses.
func echoReply(src, dst netip.Addr) []byte {
	b := make([]byte, packet.HeaderSize(src)+packet.ICMPHeader)
	packet.PutEchoReply(b, src, dst, [4]byte{})
	return b
}
