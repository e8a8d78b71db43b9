package handover

import (
	"context"
	"encoding/binary"
	"net/netip"
	"time"

	"subnetrouter/internal/backoff"
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

const (
	protocolICMP, protocolICMPv6 = 1, 58
	echoHeader                   = 8 // bytes
)

// echoReply returns an IP packet with an ICMP echo reply without data. Its identifier and
// sequence number are 0, which no ping of Linux, macOS or Windows uses.
func echoReply(src, dst netip.Addr) []byte {
	if src.Is4() {
		p := make([]byte, 20+echoHeader)
		p[0], p[8], p[9] = 4<<4|5, 64, protocolICMP
		binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
		copy(p[12:], src.AsSlice())
		copy(p[16:], dst.AsSlice())
		binary.BigEndian.PutUint16(p[10:], checksum(p[:20], 0))
		binary.BigEndian.PutUint16(p[22:], checksum(p[20:], 0)) // type 0, code 0
		return p
	}
	p := make([]byte, 40+echoHeader)
	p[0], p[6], p[7] = 6<<4, protocolICMPv6, 64
	binary.BigEndian.PutUint16(p[4:], echoHeader)
	copy(p[8:], src.AsSlice())
	copy(p[24:], dst.AsSlice())
	p[40] = 129 // echo reply
	// The pseudo header of RFC 8200, section 8.1, is the addresses, the length and the protocol.
	binary.BigEndian.PutUint16(p[42:], checksum(p[8:], echoHeader+protocolICMPv6))
	return p
}

// checksum returns the Internet checksum (RFC 1071) of b, of an even length, and of more.
func checksum(b []byte, more uint32) uint16 {
	sum := more
	for ; len(b) > 0; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
