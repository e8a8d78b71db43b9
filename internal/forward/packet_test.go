package forward

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

// FuzzParse feeds what a peer may send. Whatever parse accepts must lie within
// the packet, and the same bytes must be safe for all that comes after.
func FuzzParse(f *testing.F) {
	for _, src := range []netip.Addr{client4, client6} {
		dst := targets(80)[0]
		if src.Is6() {
			dst = targets(80)[1]
		}
		raw := make([]byte, headerSize(src)+udpHeader+5)
		putUDP(raw, netip.AddrPortFrom(src, 5000), dst)
		f.Add(raw)
		f.Add(raw[:len(raw)-3])
		fragment := bytes.Clone(raw)
		if src.Is4() {
			fragment[6] = 0x20
		} else {
			fragment[6] = protoFragment
		}
		f.Add(fragment)
		tcp := bytes.Clone(raw)
		tcp[map[bool]int{true: 9, false: 6}[src.Is4()]] = protoTCP
		f.Add(tcp)
	}
	f.Add([]byte{})
	f.Add([]byte{0x4f, 0, 0, 20})
	r := newReassembly(newDrops(), samePeer)
	f.Fuzz(func(t *testing.T, raw []byte) {
		var p inbound
		if !p.parse(raw) {
			return
		}
		if len(p.raw) > len(raw) || len(p.payload) > len(p.raw) {
			t.Fatal("parsed more than there is")
		}
		if p.fragment {
			if whole := r.add(p.raw, time.Now()); whole != nil && !p.parse(whole) {
				// A reassembled packet has a good IP header; what it carries may
				// still be cut short.
				if len(whole) < headerSize(p.dst) {
					t.Fatal("reassembled less than a header")
				}
			}
			return
		}
		if p.protocol == protoUDP {
			p.checksumOK()
		}
	})
}

func TestChecksumIsTheTextbooks(t *testing.T) {
	// The example of RFC 1071 section 3.
	if got := checksum([]byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7}, 0); got != ^uint16(0xddf2) {
		t.Errorf("checksum %04x, want %04x", got, ^uint16(0xddf2))
	}
	slow := func(b []byte) uint16 {
		var sum uint32
		for i, c := range b {
			sum += uint32(c) << (8 * (1 - i%2))
			sum = sum>>16 + sum&0xffff
		}
		return ^uint16(sum)
	}
	for n := range 200 {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rand.Uint32())
		}
		// With all bits set every addition carries.
		for _, b := range [][]byte{b, bytes.Repeat([]byte{0xff}, n)} {
			if got, want := checksum(b, 0), slow(b); got != want {
				t.Fatalf("%d bytes %x: %04x, want %04x", n, b, got, want)
			}
		}
	}
}

// fragments cuts a packet by the forwarder's own hand.
func fragments(t *testing.T, whole []byte) [][]byte {
	t.Helper()
	f := &Forwarder{mtu: 1280, link: newLink(newDrops())}
	if !f.sendFragments(whole) {
		t.Fatal("link closed")
	}
	var out [][]byte
	for len(f.link.packets) > 0 {
		p := <-f.link.packets
		out = append(out, bytes.Clone(p.own.b[:p.own.n]))
	}
	return out
}

// itself is what [Config.Peer] is by default.
func samePeer(a netip.Addr) netip.Addr { return a }

func wholePacket(src, dst netip.AddrPort, size int) []byte {
	raw := make([]byte, headerSize(src.Addr())+udpHeader+size)
	for i := range raw {
		raw[i] = byte(i * 31)
	}
	putUDP(raw, src, dst)
	return raw
}

func TestReassemblyInAnyOrder(t *testing.T) {
	for i, src := range []netip.Addr{client4, client6} {
		whole := wholePacket(netip.AddrPortFrom(src, 5000), targets(80)[i], 9000)
		parts := fragments(t, whole)
		for round := range 20 {
			rand.Shuffle(len(parts), func(a, b int) { parts[a], parts[b] = parts[b], parts[a] })
			r := newReassembly(newDrops(), samePeer)
			for n, part := range parts {
				var p inbound
				if !p.parse(part) || !p.fragment {
					t.Fatalf("fragment %d is none", n)
				}
				got := r.add(p.raw, time.Now())
				if (got != nil) != (n == len(parts)-1) {
					t.Fatalf("round %d: whole after %d of %d fragments", round, n+1, len(parts))
				}
				if got != nil && !bytes.Equal(got[headerSize(src):], whole[headerSize(src):]) {
					t.Fatal("the whole is not what was cut")
				}
			}
			if len(r.partial) != 0 {
				t.Error("something is left")
			}
		}
	}
}

func BenchmarkChecksum1200(b *testing.B) {
	data := make([]byte, 1200)
	b.SetBytes(1200)
	for b.Loop() {
		checksum(data, 0)
	}
}

// TestDeliverSurvivesAnything cuts packets short at every length, as no peer's
// packets get here, but for the engine's own checks.
func TestDeliverSurvivesAnything(t *testing.T) {
	c := newClientWithICMP(t, nil, func(cfg *Config) {
		cfg.Resolve = func(string, netip.AddrPort) (netip.AddrPort, error) { return netip.AddrPort{}, syscall.EHOSTUNREACH }
	})
	for i, src := range []netip.Addr{client4, client6} {
		for _, protocol := range []byte{protoTCP, protoUDP, protoICMP, protoICMPv6, protoFragment, 0} {
			raw := wholePacket(netip.AddrPortFrom(src, 5000), targets(80)[i], 40)
			for n := range len(raw) {
				short := bytes.Clone(raw[:n])
				if n >= headerSize(src) {
					putIP(short, src, targets(80)[i].Addr(), protocol)
				}
				c.f.Deliver([][]byte{short}, 0)
			}
		}
	}
}
