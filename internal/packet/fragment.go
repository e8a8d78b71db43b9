package packet

import (
	"encoding/binary"
	"net/netip"
)

// Fragmenter splits a packet into fragments that fit an MTU. It aliases the packet.
type Fragmenter struct {
	packet []byte
	header int // size of the IP header
	step   int // data of each fragment but the last
	id     uint32
	at     int // data that earlier fragments have
}

// Split returns a Fragmenter for a packet whose IP header has neither options nor extension
// headers. mtu must leave room for a header and 8 bytes of data. The caller gives packets
// between two hosts different values of id, of which IPv4 uses the lower 16 bits.
func Split(packet []byte, mtu int, id uint32) Fragmenter {
	f := Fragmenter{packet: packet, header: IPv4Header, id: id}
	room := mtu - IPv4Header
	if packet[0]>>4 == 6 {
		f.header = IPv6Header
		room = mtu - IPv6Header - FragmentHeader
	}
	f.step = room &^ 7
	return f
}

// More reports whether there is another fragment.
func (f *Fragmenter) More() bool { return f.header+f.at < len(f.packet) }

// Next writes the next fragment to b, which must have room for the MTU, and returns its size.
// There must be one.
func (f *Fragmenter) Next(b []byte) (size int) {
	data := f.packet[f.header:]
	part := data[f.at:min(f.at+f.step, len(data))]
	offset := f.at
	f.at += len(part)
	copy(b, f.packet[:f.header])
	if f.header == IPv4Header {
		const moreFragments = 0x2000
		field := uint16(offset / 8)
		if f.More() {
			field |= moreFragments
		}
		size = IPv4Header + copy(b[IPv4Header:], part)
		binary.BigEndian.PutUint16(b[2:], uint16(size))
		binary.BigEndian.PutUint16(b[4:], uint16(f.id))
		binary.BigEndian.PutUint16(b[6:], field)
		putHeaderChecksum(b)
		return size
	}
	fragment := b[IPv6Header:]
	fragment[0], fragment[1] = f.packet[6], 0
	field := uint16(offset)
	if f.More() {
		field |= 1
	}
	binary.BigEndian.PutUint16(fragment[2:], field)
	binary.BigEndian.PutUint32(fragment[4:], f.id)
	size = IPv6Header + FragmentHeader + copy(fragment[FragmentHeader:], part)
	binary.BigEndian.PutUint16(b[4:], uint16(size-IPv6Header))
	b[6] = ProtoFragment
	return size
}

// Fragment is a parsed fragment.
type Fragment struct {
	Src, Dst netip.Addr
	ID       uint32
	Protocol uint8 // of the whole datagram
	Offset   int   // of Data in the whole datagram's data, in bytes
	More     bool  // it is not the last fragment
	Data     []byte
}

// ParseFragment reads the fragment in raw, a packet that [Packet.Parse] marked as one. It reports
// false if raw has no fragment header directly after the IPv6 header; clients send no other
// extension headers.
func ParseFragment(raw []byte) (f Fragment, ok bool) {
	if raw[0]>>4 == 4 {
		size := int(raw[0]&15) * 4
		field := binary.BigEndian.Uint16(raw[6:])
		return Fragment{
			Src: netip.AddrFrom4([4]byte(raw[12:16])), Dst: netip.AddrFrom4([4]byte(raw[16:20])),
			ID: uint32(binary.BigEndian.Uint16(raw[4:])), Protocol: raw[9],
			Offset: int(field&0x1fff) * 8, More: field&0x2000 != 0, Data: raw[size:],
		}, true
	}
	if raw[6] != ProtoFragment || len(raw) < IPv6Header+FragmentHeader {
		return Fragment{}, false
	}
	h := raw[IPv6Header:]
	field := binary.BigEndian.Uint16(h[2:])
	return Fragment{
		Src: netip.AddrFrom16([16]byte(raw[8:24])), Dst: netip.AddrFrom16([16]byte(raw[24:40])),
		ID: binary.BigEndian.Uint32(h[4:]), Protocol: h[0],
		Offset: int(field &^ 7), More: field&1 != 0, Data: h[FragmentHeader:],
	}, true
}
