package tailnet

import (
	"net/netip"
	"time"

	"subnetrouter/internal/backoff"

	"tailscale.com/net/packet"
	"tailscale.com/types/ipproto"
)

const (
	// maxGreeted bounds the peers that greet sends a packet to.
	maxGreeted = 1024
	// greetBatch packets are sent at once, and then the next ones after greetEvery: each
	// costs a WireGuard handshake.
	greetBatch = 32
	greetEvery = 50 * time.Millisecond
)

// greet sends a packet to each online peer once the node is a member, if its identity is that
// of an earlier process. A peer may still have a WireGuard session with that process, and its
// discovery key, which it prefers to a newer one from control. Without the handshake that the
// packet causes, its packets would be lost for up to 15 s.
//
// The packet is an ICMP echo reply, which hosts ignore. Peers with the node's tags come
// first: they may be asked for help right away.
func (n *Node) greet() {
	if !n.state.await(n.ctx, func(s *Status) bool { return s.Running() }) {
		return
	}
	greeted := 0
	for _, to := range n.onlinePeers() {
		reply := n.echoReply(to)
		if reply == nil {
			continue
		}
		n.sys.Tun.Get().InjectOutbound(reply)
		if greeted++; greeted == maxGreeted {
			break
		}
		if greeted%greetBatch == 0 && !backoff.Sleep(n.ctx, greetEvery) {
			return
		}
	}
	n.log.Debug("peers greeted", "peers", greeted)
}

// onlinePeers returns an address of each peer that control reports as online, those with a
// tag of this node first.
func (n *Node) onlinePeers() (list []netip.Addr) {
	nm := n.lb.NetMapWithPeers()
	if nm == nil || !nm.SelfNode.Valid() {
		return nil
	}
	own := nm.SelfNode.Tags().AsSlice()
	var others []netip.Addr
	for _, p := range nm.Peers {
		if online, _ := p.Online().GetOk(); !online || p.Addresses().Len() == 0 {
			continue
		}
		if a := p.Addresses().At(0).Addr(); shareTag(p.Tags().AsSlice(), own) {
			list = append(list, a)
		} else {
			others = append(others, a)
		}
	}
	return append(list, others...)
}

// echoReply returns an ICMP echo reply from this node, which answers no request; nil if it has
// no address of the family.
func (n *Node) echoReply(to netip.Addr) []byte {
	from, ok := n.ownAddress(to.Is4())
	if !ok {
		return nil
	}
	payload := make([]byte, 4) // identifier and sequence number
	if to.Is4() {
		return packet.Generate(packet.ICMP4Header{
			IPProto: ipproto.ICMPv4, Src: from, Dst: to, Type: packet.ICMP4EchoReply,
		}, payload)
	}
	return packet.Generate(packet.ICMP6Header{
		IPProto: ipproto.ICMPv6, Src: from, Dst: to, Type: packet.ICMP6EchoReply,
	}, payload)
}
