package packet

import (
	"encoding/binary"
	"net/netip"
)

func (p *Packet) parseUDP() bool {
	udp := p.Payload()
	if len(udp) < UDPHeader {
		return false
	}
	length := int(binary.BigEndian.Uint16(udp[4:]))
	if length < UDPHeader || length > len(udp) {
		return false
	}
	p.SrcPort, p.DstPort = binary.BigEndian.Uint16(udp), binary.BigEndian.Uint16(udp[2:])
	p.Data = udp[UDPHeader:length]
	return true
}

// UDPChecksumOK verifies the checksum of a UDP packet, which is optional with IPv4.
func (p *Packet) UDPChecksumOK() bool {
	datagram := p.Raw[p.Size : p.Size+UDPHeader+len(p.Data)]
	if p.Src.Is4() && binary.BigEndian.Uint16(datagram[6:]) == 0 {
		return true
	}
	return Checksum(datagram, PseudoSum(p.Src, p.Dst, ProtoUDP, len(datagram))) == 0
}

// PutUDP writes the IP and UDP headers of a packet of len(b) bytes whose data is at the end of b
// already.
func PutUDP(b []byte, src, dst netip.AddrPort) {
	PutIP(b, src.Addr(), dst.Addr(), ProtoUDP)
	u := b[HeaderSize(src.Addr()):]
	binary.BigEndian.PutUint16(u, src.Port())
	binary.BigEndian.PutUint16(u[2:], dst.Port())
	binary.BigEndian.PutUint16(u[4:], uint16(len(u)))
	binary.BigEndian.PutUint16(u[6:], 0)
	sum := Checksum(u, PseudoSum(src.Addr(), dst.Addr(), ProtoUDP, len(u)))
	if sum == 0 {
		sum = 0xffff // zero means "no checksum"
	}
	binary.BigEndian.PutUint16(u[6:], sum)
}
