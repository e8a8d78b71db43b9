package forward

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// sendUDP sends a datagram to a client, in fragments if it is larger than the
// tailnet's MTU. It reports false once the forwarder is closed.
func (f *Forwarder) sendUDP(src, dst netip.AddrPort, payload []byte) bool {
	h := headerSize(src.Addr())
	if total := h + udpHeader + len(payload); total > f.mtu {
		big := f.buffers.Get().(*[]byte)
		defer f.buffers.Put(big)
		if total > len(*big) { // no socket gives that much
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

// sendFragments cuts an IP packet, without options, to the MTU.
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

// fragmentHeader is the length of IPv6's, and its protocol number.
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

// icmpError is a reason that a client is told, in either protocol version.
type icmpError struct {
	type4, code4, type6, code6 uint8
}

var (
	portUnreachable = icmpError{type4: 3, code4: 3, type6: 1, code6: 4}
	hostUnreachable = icmpError{type4: 3, code4: 1, type6: 1, code6: 3}
	adminProhibited = icmpError{type4: 3, code4: 13, type6: 1, code6: 1}
	packetTooBig    = icmpError{type4: 3, code4: 4, type6: 2, code6: 0}
)

// unreachableFor says what a failed dial means to the client.
func unreachableFor(reason string) icmpError {
	if reason == unreachable || reason == timedOut {
		return hostUnreachable
	}
	return portUnreachable
}

// icmpQuote is how much of the offending packet an error carries: enough to find
// the socket, and within the smallest MTU.
const icmpQuote = 128

// Prohibit answers an IP packet of a peer with an ICMP error that says that a rule,
// not the network, stands between (RFC 1812 section 5.2.7.1, RFC 4443 section 3.1).
// It is silent where no answer is due: to an ICMP message other than an echo request,
// to fragments but the first, and to what was not sent by one host to one (RFC 1122
// section 3.2.2).
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

// refuse answers a packet with an error.
func (f *Forwarder) refuse(p *inbound, why icmpError) { f.sendError(p.raw, why, 0) }

// tellUDP answers what the client of a flow sent some time ago. Its packet is no
// longer at hand: the headers tell the client's system all that it looks at.
func (f *Forwarder) sendUDPError(key flowKey, why icmpError, mtu int) {
	h := headerSize(key.dst.Addr())
	quote := make([]byte, h+udpHeader)
	putUDP(quote, key.client, key.dst)
	f.sendError(quote, why, mtu)
}

// mtuOf is the MTU of a connected socket's path, 0 if it is not known.
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

// sendError sends an ICMP error as from the destination of the packet that it
// quotes. It never waits: an error is lost if there is no room.
func (f *Forwarder) sendError(quote []byte, why icmpError, mtu int) {
	quote = quote[:min(len(quote), icmpQuote)]
	p := packetBuffers.Get().(*packetBuffer)
	v4 := quote[0]>>4 == 4
	h, protocol, typ, code := ipv6Header, uint8(protoICMPv6), why.type6, why.code6
	var client, dst netip.Addr
	if v4 {
		h, protocol, typ, code = ipv4Header, protoICMP, why.type4, why.code4
		client, dst = netip.AddrFrom4([4]byte(quote[12:16])), netip.AddrFrom4([4]byte(quote[16:20]))
	} else {
		client, dst = netip.AddrFrom16([16]byte(quote[8:24])), netip.AddrFrom16([16]byte(quote[24:40]))
	}
	p.n = h + icmpHeader + len(quote)
	message := p.b[h:p.n]
	message[0], message[1] = typ, code
	binary.BigEndian.PutUint16(message[2:], 0)
	binary.BigEndian.PutUint32(message[4:], uint32(mtu)) // IPv4 has its MTU in the lower half
	copy(message[icmpHeader:], quote)
	sum := uint64(0)
	if !v4 {
		sum = pseudoSum(dst, client, protoICMPv6, len(message))
	}
	binary.BigEndian.PutUint16(message[2:], checksum(message, sum))
	putIP(p.b[:p.n], dst, client, protocol)
	f.link.reply(outgoing{own: p})
}

// sendEchoReply answers an echo request whose identifier and sequence number are
// given, as from dst.
func (f *Forwarder) sendEchoReply(client, dst netip.Addr, idSeq [4]byte, data []byte) {
	h, protocol, typ := headerSize(dst), uint8(protoICMP), uint8(0)
	if dst.Is6() {
		protocol, typ = protoICMPv6, 129
	}
	buf := f.buffers.Get().(*[]byte)
	defer f.buffers.Put(buf)
	total := h + icmpHeader + len(data)
	if total > len(*buf) { // no socket gives that much
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
