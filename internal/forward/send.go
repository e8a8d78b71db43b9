package forward

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// sendUDP sends a datagram to a client, in fragments if it exceeds the tailnet's MTU. It
// returns false once the forwarder is closed.
func (f *Forwarder) sendUDP(src, dst netip.AddrPort, payload []byte) bool {
	h := headerSize(src.Addr())
	if total := h + udpHeader + len(payload); total > f.mtu {
		big := f.buffers.Get().(*[]byte)
		defer f.buffers.Put(big)
		if total > len(*big) { // larger than any datagram of a socket
			f.drops.add(dropTooBig, 1)
			return true
		}
		copy((*big)[h+udpHeader:], payload)
		putUDP((*big)[:total], src, dst)
		return f.sendFragments((*big)[:total])
	}
	p := packetBuffers.Get().(*packetBuffer)
	p.n = h + udpHeader + len(payload)
	copy(p.b[h+udpHeader:], payload)
	putUDP(p.b[:p.n], src, dst)
	return f.link.send(outgoing{own: p})
}

// sendFragments sends an IP packet without options in fragments that fit the MTU.
func (f *Forwarder) sendFragments(packet []byte) bool {
	if packet[0]>>4 == 4 {
		return f.sendFragments4(packet)
	}
	return f.sendFragments6(packet)
}

func (f *Forwarder) sendFragments4(packet []byte) bool {
	const moreFragments = 0x2000
	id := uint16(f.fragmentID.Add(1))
	step := (f.mtu - ipv4Header) &^ 7
	for at, data := 0, packet[ipv4Header:]; at < len(data); at += step {
		part := data[at:min(at+step, len(data))]
		p := packetBuffers.Get().(*packetBuffer)
		p.n = ipv4Header + len(part)
		copy(p.b[:], packet[:ipv4Header])
		copy(p.b[ipv4Header:], part)
		offset := uint16(at / 8)
		if at+step < len(data) {
			offset |= moreFragments
		}
		binary.BigEndian.PutUint16(p.b[2:], uint16(p.n))
		binary.BigEndian.PutUint16(p.b[4:], id)
		binary.BigEndian.PutUint16(p.b[6:], offset)
		binary.BigEndian.PutUint16(p.b[10:], 0)
		binary.BigEndian.PutUint16(p.b[10:], checksum(p.b[:ipv4Header], 0))
		if !f.link.send(outgoing{own: p}) {
			return false
		}
	}
	return true
}

// fragmentHeader is the length of IPv6's fragment header, protoFragment its protocol number.
const (
	fragmentHeader = 8
	protoFragment  = 44
)

func (f *Forwarder) sendFragments6(packet []byte) bool {
	id := f.fragmentID.Add(1)
	step := (f.mtu - ipv6Header - fragmentHeader) &^ 7
	for at, data := 0, packet[ipv6Header:]; at < len(data); at += step {
		part := data[at:min(at+step, len(data))]
		p := packetBuffers.Get().(*packetBuffer)
		p.n = ipv6Header + fragmentHeader + len(part)
		copy(p.b[:], packet[:ipv6Header])
		fragment := p.b[ipv6Header:]
		fragment[0], fragment[1] = packet[6], 0
		offset := uint16(at)
		if at+step < len(data) {
			offset |= 1
		}
		binary.BigEndian.PutUint16(fragment[2:], offset)
		binary.BigEndian.PutUint32(fragment[4:], id)
		copy(fragment[fragmentHeader:], part)
		binary.BigEndian.PutUint16(p.b[4:], uint16(p.n-ipv6Header))
		p.b[6] = protoFragment
		if !f.link.send(outgoing{own: p}) {
			return false
		}
	}
	return true
}

// icmpError is the type and code of an ICMP error in both protocol versions.
type icmpError struct {
	type4, code4, type6, code6 uint8
}

var (
	portUnreachable = icmpError{type4: 3, code4: 3, type6: 1, code6: 4}
	hostUnreachable = icmpError{type4: 3, code4: 1, type6: 1, code6: 3}
	adminProhibited = icmpError{type4: 3, code4: 13, type6: 1, code6: 1}
	packetTooBig    = icmpError{type4: 3, code4: 4, type6: 2, code6: 0}
)

// unreachableFor returns the ICMP error for a failed dial.
func unreachableFor(reason string) icmpError {
	if reason == unreachable || reason == timedOut {
		return hostUnreachable
	}
	return portUnreachable
}

// icmpQuote is the number of bytes of the offending packet that an error quotes: enough to find
// the client's socket, and within the smallest MTU.
const icmpQuote = 128

// Prohibit answers a peer's IP packet with an ICMP error "administratively prohibited" (RFC
// 1812 section 5.2.7.1, RFC 4443 section 3.1). It sends nothing where RFC 1122 section 3.2.2
// forbids an error: for ICMP messages other than echo requests, for fragments other than the
// first, and for packets whose source or destination is not a single host.
func (f *Forwarder) Prohibit(packet []byte) {
	var p inbound
	if !p.parse(packet) || p.dst.IsMulticast() || p.src.IsUnspecified() || p.src.IsMulticast() {
		return
	}
	if p.fragment {
		key, offset, _, data, ok := fragmentOf(p.raw)
		if !ok || offset > 0 || len(data) == 0 {
			return
		}
		p.protocol, p.payload = key.protocol, data
	}
	if (p.protocol == protoICMP || p.protocol == protoICMPv6) && !p.isEchoRequest() {
		return
	}
	f.refuse(&p, adminProhibited)
}

// refuse answers a packet with an ICMP error.
func (f *Forwarder) refuse(p *inbound, reason icmpError) { f.sendError(p.raw, reason, 0) }

// sendUDPError sends an ICMP error about an earlier packet of a UDP flow. That packet is no
// longer available; the error quotes rebuilt headers, which are all that the client's system
// looks at.
func (f *Forwarder) sendUDPError(key flowKey, reason icmpError, mtu int) {
	h := headerSize(key.dst.Addr())
	quote := make([]byte, h+udpHeader)
	putUDP(quote, key.client, key.dst)
	f.sendError(quote, reason, mtu)
}

// mtuOf returns the path MTU of a connected socket; 0 if unknown.
func mtuOf(fd int, dst netip.Addr) int {
	level, option := unix.IPPROTO_IP, pathMTU4
	if dst.Is6() {
		level, option = unix.IPPROTO_IPV6, pathMTU6
	}
	mtu, err := unix.GetsockoptInt(fd, level, option)
	if err != nil {
		return 0
	}
	return mtu
}

// sendError sends an ICMP error from the destination address of the quoted packet. It never
// waits: an error is dropped if there is no room.
func (f *Forwarder) sendError(quote []byte, reason icmpError, mtu int) {
	quote = quote[:min(len(quote), icmpQuote)]
	p := packetBuffers.Get().(*packetBuffer)
	v4 := quote[0]>>4 == 4
	h, protocol, typ, code := ipv6Header, uint8(protoICMPv6), reason.type6, reason.code6
	var client, dst netip.Addr
	if v4 {
		h, protocol, typ, code = ipv4Header, protoICMP, reason.type4, reason.code4
		client, dst = netip.AddrFrom4([4]byte(quote[12:16])), netip.AddrFrom4([4]byte(quote[16:20]))
	} else {
		client, dst = netip.AddrFrom16([16]byte(quote[8:24])), netip.AddrFrom16([16]byte(quote[24:40]))
	}
	p.n = h + icmpHeader + len(quote)
	message := p.b[h:p.n]
	message[0], message[1] = typ, code
	binary.BigEndian.PutUint16(message[2:], 0)
	binary.BigEndian.PutUint32(message[4:], uint32(mtu)) // in IPv4 the MTU is the lower half
	copy(message[icmpHeader:], quote)
	sum := uint64(0)
	if !v4 {
		sum = pseudoSum(dst, client, protoICMPv6, len(message))
	}
	binary.BigEndian.PutUint16(message[2:], checksum(message, sum))
	putIP(p.b[:p.n], dst, client, protocol)
	f.link.reply(outgoing{own: p})
}

// sendEchoReply sends an echo reply from dst with the given identifier and sequence number.
func (f *Forwarder) sendEchoReply(client, dst netip.Addr, idSeq [4]byte, data []byte) {
	h, protocol, typ := headerSize(dst), uint8(protoICMP), uint8(0)
	if dst.Is6() {
		protocol, typ = protoICMPv6, 129
	}
	buf := f.buffers.Get().(*[]byte)
	defer f.buffers.Put(buf)
	total := h + icmpHeader + len(data)
	if total > len(*buf) { // larger than any datagram of a socket
		f.drops.add(dropTooBig, 1)
		return
	}
	packet := (*buf)[:total]
	message := packet[h:]
	message[0], message[1], message[2], message[3] = typ, 0, 0, 0
	copy(message[4:], idSeq[:])
	copy(message[icmpHeader:], data)
	sum := uint64(0)
	if dst.Is6() {
		sum = pseudoSum(dst, client, protoICMPv6, len(message))
	}
	binary.BigEndian.PutUint16(message[2:], checksum(message, sum))
	putIP(packet, dst, client, protocol)
	if total > f.mtu {
		f.sendFragments(packet)
		return
	}
	p := packetBuffers.Get().(*packetBuffer)
	p.n = copy(p.b[:], packet)
	f.link.send(outgoing{own: p})
}
