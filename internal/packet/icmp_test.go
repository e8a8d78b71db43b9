package packet

import (
	"bytes"
	"net/netip"
	"testing"
)

// FuzzEchoReply reads arbitrary messages of an ICMP socket, and one that a router built.
func FuzzEchoReply(f *testing.F) {
	f.Add([]byte("x"), false)
	f.Add([]byte{0x45, 19: 0, 27: 1}, false)
	f.Add([]byte{0x4f, 19: 0}, false)
	f.Add([]byte{129, 7: 1}, true)
	f.Fuzz(func(t *testing.T, b []byte, ipv6 bool) {
		if _, _, data, ok := ParseEchoReply(b, ipv6); ok && !bytes.HasSuffix(b, data) {
			t.Fatal("the data lies outside the message")
		}
		src, dst := target4.Addr(), client4
		if ipv6 {
			src, dst = target6.Addr(), client6
		}
		h := HeaderSize(src) + ICMPHeader
		raw := append(make([]byte, h), b[:min(len(b), 60000)]...)
		PutEchoReply(raw, src, dst, [4]byte{1, 2, 3, 4})
		var p Packet
		if !p.Parse(raw) || !p.ICMPChecksumOK() || p.Src != src || p.Dst != dst || p.IsEchoRequest() {
			t.Fatalf("the reply %x is invalid", raw)
		}
		id, seq, data, ok := ParseEchoReply(p.Data, ipv6)
		if !ok || id != 0x0102 || seq != 0x0304 || !bytes.Equal(data, raw[h:]) {
			t.Fatalf("read %x, %x, %d bytes, %v", id, seq, len(data), ok)
		}
		if !ipv6 { // as a raw socket returns it
			if _, _, data, ok := ParseEchoReply(raw, false); !ok || !bytes.Equal(data, raw[h:]) {
				t.Fatal("the reply of a raw socket was not read")
			}
		}
	})
}

// TestEchoRequest: the checksum is set where the kernel does not do it.
func TestEchoRequest(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		message := append(make([]byte, ICMPHeader), "data"...)
		PutEchoRequest(message, ipv6, 7, 8)
		if sum := Checksum(message, 0); !ipv6 && sum != 0 {
			t.Errorf("the checksum is off by %x", sum)
		}
		if want := map[bool]byte{false: 8, true: 128}[ipv6]; message[0] != want {
			t.Errorf("type %d, want %d", message[0], want)
		}
	}
}

// FuzzParseUnreachable: an error that [PutICMPError] writes is read again, and arbitrary bytes do no harm.
func FuzzParseUnreachable(f *testing.F) {
	for _, host := range []string{"100.64.0.1", "fd7a::1"} {
		a, b := netip.AddrPortFrom(netip.MustParseAddr(host), 1000), netip.AddrPortFrom(netip.MustParseAddr(host).Next(), 53)
		sent := make([]byte, HeaderSize(a.Addr())+UDPHeader+5)
		PutUDP(sent, a, b)
		for _, e := range []ICMPError{PortUnreachable, HostUnreachable, PacketTooBig} {
			raw := make([]byte, MaxICMPError)
			raw = raw[:PutICMPError(raw, sent, e, 0)]
			var p Packet
			if !p.Parse(raw) {
				f.Fatal("the error is no packet")
			}
			q, ok := p.ParseUnreachable()
			if want := (Quote{Protocol: ProtoUDP, Src: a, Dst: b, Refused: e == PortUnreachable}); ok != (e != PacketTooBig) || ok && q != want {
				f.Errorf("%v: %+v, %v", e, q, ok)
			}
			f.Add(raw)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var p Packet
		if !p.Parse(raw) || p.Fragment {
			return
		}
		if q, ok := p.ParseUnreachable(); ok && q.Src.Addr() != p.Dst {
			t.Errorf("an error for %v about a packet of %v", p.Dst, q.Src)
		}
	})
}
