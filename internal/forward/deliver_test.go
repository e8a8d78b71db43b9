package forward

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"syscall"
	"testing"

	"subnetrouter/internal/packet"
)

func (f *Forwarder) tcp() *streamTable { return f.tables[TCP].(*streamTable) }
func (f *Forwarder) udp() *udpTable    { return f.tables[UDP].(*udpTable) }
func (f *Forwarder) pinger() *pinger   { return f.tables[ICMP].(*pinger) }

// wholePacket returns a datagram with size bytes of data.
func wholePacket(src, dst netip.AddrPort, size int) []byte {
	raw := make([]byte, packet.HeaderSize(src.Addr())+packet.UDPHeader+size)
	for i := range raw {
		raw[i] = byte(i * 31)
	}
	packet.PutUDP(raw, src, dst)
	return raw
}

// fragments splits a packet, with an identification, for the tailnet's usual MTU.
func fragments(whole []byte, id uint32) (parts [][]byte) {
	const mtu = 1280
	for f := packet.Split(whole, mtu, id); f.More(); {
		b := make([]byte, mtu)
		parts = append(parts, b[:f.Next(b)])
	}
	return parts
}

// tcpSegment returns a packet with a valid checksum and a timestamp option.
func tcpSegment(src, dst netip.AddrPort, seq uint32, flags byte, stamp uint32, data []byte) []byte {
	const length = packet.TCPHeader + 12
	h := packet.HeaderSize(src.Addr())
	raw := make([]byte, h+length+len(data))
	packet.PutIP(raw, src.Addr(), dst.Addr(), packet.ProtoTCP)
	t := raw[h:]
	binary.BigEndian.PutUint16(t, src.Port())
	binary.BigEndian.PutUint16(t[2:], dst.Port())
	binary.BigEndian.PutUint32(t[4:], seq)
	t[12], t[13] = length/4<<4, flags
	binary.BigEndian.PutUint16(t[14:], 1000)
	t[20], t[21], t[22], t[23] = 1, 1, 8, 10
	binary.BigEndian.PutUint32(t[24:], stamp)
	copy(t[length:], data)
	binary.BigEndian.PutUint16(t[16:], packet.Checksum(t, packet.PseudoSum(src.Addr(), dst.Addr(), packet.ProtoTCP, len(t))))
	return raw
}

// TestDeliverSurvivesAnything truncates packets at every length. The engine's own checks keep
// such packets from the data path.
func TestDeliverSurvivesAnything(t *testing.T) {
	c := newClientWithICMP(t, nil, func(cfg *Config) {
		cfg.Resolve = func(string, netip.AddrPort) (netip.AddrPort, error) { return netip.AddrPort{}, syscall.EHOSTUNREACH }
	})
	for i, src := range []netip.Addr{client4, client6} {
		for _, protocol := range []byte{packet.ProtoTCP, packet.ProtoUDP, packet.ProtoICMP, packet.ProtoICMPv6, packet.ProtoFragment, 0} {
			raw := wholePacket(netip.AddrPortFrom(src, 5000), targets(80)[i], 40)
			for n := range len(raw) {
				short := bytes.Clone(raw[:n])
				if n >= packet.HeaderSize(src) {
					packet.PutIP(short, src, targets(80)[i].Addr(), protocol)
				}
				c.f.Deliver([][]byte{short}, 0)
				c.f.DeliverOwn(short)
			}
		}
	}
}
