package packet

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"
)

// FuzzParse parses arbitrary packets. The fields of an accepted packet must lie within it, and
// everything that takes a parsed packet must accept it without a panic.
func FuzzParse(f *testing.F) {
	for _, src := range []netip.Addr{client4, client6} {
		dst := targetFor(src)
		raw := make([]byte, HeaderSize(src)+UDPHeader+5)
		PutUDP(raw, netip.AddrPortFrom(src, 5000), dst)
		f.Add(raw)
		f.Add(raw[:len(raw)-3])
		fragment := bytes.Clone(raw)
		if src.Is4() {
			fragment[6] = 0x20
		} else {
			fragment[6] = ProtoFragment
		}
		f.Add(fragment)
		tcp := bytes.Clone(raw)
		tcp[map[bool]int{true: 9, false: 6}[src.Is4()]] = ProtoTCP
		f.Add(tcp)
	}
	f.Add([]byte{})
	f.Add([]byte{0x4f, 0, 0, 20})
	f.Add(tcpSegment(client4Port, target4, 1, byte(ACK|PSH), 1, []byte("data")))
	f.Add(tcpSegment(client6Port, target6, 1, byte(SYN), 1, nil))
	r, _ := newReassembly(samePeer)
	f.Fuzz(func(t *testing.T, raw []byte) {
		var p Packet
		h, rest, whole := ParseHeader(raw)
		if !p.Parse(raw) {
			return
		}
		if !whole || len(h.Raw)+len(rest) != len(raw) || h.Src != p.Src || h.Dst != p.Dst || h.Fragment != p.Fragment {
			t.Fatalf("ParseHeader returned %v, %+v for %+v", whole, h, p)
		}
		if len(p.Raw) > len(raw) || len(p.Data) > len(p.Raw) || p.Size > len(p.Raw) || p.Src.Is4() != p.Dst.Is4() {
			t.Fatal("a field lies outside the packet")
		}
		switch {
		case p.Fragment:
			if whole := r.Add(p.Raw, time.Now()); whole != nil && !p.Parse(whole) {
				// A reassembled packet has a valid IP header; its payload may
				// still be truncated.
				if len(whole) < HeaderSize(p.Dst) {
					t.Fatal("the reassembled packet is shorter than a header")
				}
			}
		case p.Protocol == ProtoUDP:
			p.UDPChecksumOK()
		case p.Protocol == ProtoICMP, p.Protocol == ProtoICMPv6:
			p.ICMPChecksumOK()
			p.IsEchoRequest()
		case p.Protocol == ProtoTCP:
			if segment, err := p.Segment(); err == nil && (len(segment) < TCPHeader || tcpHeaderSize(segment) > len(segment)) {
				t.Fatalf("a segment of %d bytes without a whole header", len(segment))
			}
		}
		var answer Packet
		b := make([]byte, MaxICMPError)
		if n := PutICMPError(b, p.Raw, AdminProhibited, 0); !answer.Parse(b[:n]) || !answer.ICMPChecksumOK() || answer.Dst != h.Src || answer.Src != h.Dst {
			t.Fatalf("the ICMP error %x is invalid", b[:n])
		}
	})
}

// fragments splits a packet for the tailnet's usual MTU.
func fragments(whole []byte) (parts [][]byte) {
	const mtu = 1280
	for f := Split(whole, mtu, 7); f.More(); {
		b := make([]byte, mtu)
		parts = append(parts, b[:f.Next(b)])
	}
	return parts
}

// samePeer gives each address a share of its own.
func samePeer(a netip.Addr) netip.Addr { return a }

var (
	client4Port, client6Port = netip.MustParseAddrPort("100.64.0.2:5000"), netip.MustParseAddrPort("[fd7a:115c:a1e0::2]:5000")
	client4, client6         = client4Port.Addr(), client6Port.Addr()
	target4, target6         = netip.MustParseAddrPort("10.0.3.4:80"), netip.MustParseAddrPort("[2600:1f18::4]:80")
)

// targetFor returns the target of an address's family.
func targetFor(src netip.Addr) netip.AddrPort {
	if src.Is4() {
		return target4
	}
	return target6
}

// wholePacket returns a datagram with size bytes of data.
func wholePacket(src, dst netip.AddrPort, size int) []byte {
	raw := make([]byte, HeaderSize(src.Addr())+UDPHeader+size)
	for i := range raw {
		raw[i] = byte(i * 31)
	}
	PutUDP(raw, src, dst)
	return raw
}

// TestPutReset: the reset belongs to the connection that the client believes in (RFC 9293, section
// 3.10.7.1), and no reset answers a reset.
func TestPutReset(t *testing.T) {
	for _, client := range []netip.AddrPort{client4Port, client6Port} {
		target := targetFor(client.Addr())
		for _, c := range []struct {
			flags     TCPFlags
			data      int
			want      TCPFlags
			seq, acks uint32
		}{
			{SYN, 0, RST | ACK, 0, 1001},
			{SYN | FIN, 3, RST | ACK, 0, 1005},
			{FIN, 5, RST | ACK, 0, 1006},
			{ACK, 5, RST, 0x01020304, 0},
			{SYN | ACK, 0, RST, 0x01020304, 0},
			{RST, 0, 0, 0, 0},
			{RST | ACK, 0, 0, 0, 0},
		} {
			raw := tcpSegment(client, target, 1000, byte(c.flags), 1, make([]byte, c.data))
			h := HeaderSize(client.Addr())
			copy(raw[h+8:], []byte{1, 2, 3, 4})
			binary.BigEndian.PutUint16(raw[h+16:], 0)
			binary.BigEndian.PutUint16(raw[h+16:], Checksum(raw[h:], PseudoSum(client.Addr(), target.Addr(), ProtoTCP, len(raw)-h)))
			var p, got Packet
			if !p.Parse(raw) {
				t.Fatal("malformed segment")
			}
			segment, err := p.Segment()
			if err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 100)
			size := PutReset(b, &p, segment)
			if c.want == 0 {
				if size != 0 {
					t.Errorf("%v answered by %x", c.flags, b[:size])
				}
				continue
			}
			if !got.Parse(b[:size]) {
				t.Fatalf("malformed reset %x", b[:size])
			}
			reset, err := got.Segment()
			if err != nil {
				t.Fatal(err)
			}
			from, to := SegmentPorts(reset)
			if got.Src != target.Addr() || got.Dst != client.Addr() || from != target.Port() || to != client.Port() ||
				TCPFlags(reset[13]) != c.want || binary.BigEndian.Uint32(reset[4:]) != c.seq || binary.BigEndian.Uint32(reset[8:]) != c.acks {
				t.Errorf("%v, %d bytes: got %v:%d > %v:%d %x", c.flags, c.data, got.Src, from, got.Dst, to, reset)
			}
		}
	}
}
