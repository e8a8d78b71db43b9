package forward

import (
	"net/netip"

	"subnetrouter/internal/packet"
	"subnetrouter/internal/routes"
)

// Protocol is a protocol that the data path forwards, in both versions of IP.
type Protocol int

// The protocols. Their String is a metric's label, "tcp", "udp" or "icmp".
const (
	TCP Protocol = iota
	UDP
	ICMP

	protocolCount
)

func (p Protocol) String() string { return [protocolCount]string{"tcp", "udp", "icmp"}[p] }

// number returns the IP protocol number of TCP or UDP; ICMP has one for each version of IP.
func (p Protocol) number() uint8 { return [...]uint8{TCP: packet.ProtoTCP, UDP: packet.ProtoUDP}[p] }

// protocolOf returns the protocol with an IP protocol number, if there is one.
func protocolOf(number uint8) (p Protocol, ok bool) {
	switch number {
	case packet.ProtoTCP:
		return TCP, true
	case packet.ProtoUDP:
		return UDP, true
	case packet.ProtoICMP, packet.ProtoICMPv6:
		return ICMP, true
	}
	return 0, false
}

// Counts holds a number of flows for each [Protocol].
type Counts [protocolCount]int

// Total returns the sum over the protocols.
func (c Counts) Total() (n int) {
	for _, v := range c {
		n += v
	}
	return n
}

// flowKey identifies a flow as its client sees it: dst may be a 4via6 address. For ICMP the ports
// are 0.
type flowKey struct{ client, dst netip.AddrPort }

// keyOf returns the key of a packet of UDP or ICMP.
func keyOf(p *packet.Packet) flowKey {
	return flowKey{netip.AddrPortFrom(p.Src, p.SrcPort), netip.AddrPortFrom(p.Dst, p.DstPort)}
}

// target returns the address and port behind the router: for 4via6 the IPv4 address, otherwise
// dst itself.
func (k flowKey) target() netip.AddrPort {
	return netip.AddrPortFrom(routes.Target(k.dst.Addr()), k.dst.Port())
}

// Address families, as indexes.
const (
	family4 = 0
	family6 = 1
)

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return family4
	}
	return family6
}
