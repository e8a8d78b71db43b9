package forward

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

// FuzzParse parses arbitrary packets. The fields of an accepted packet must lie within it, and
// the code that follows parse must accept the same bytes without a panic.
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
			t.Fatal("a field lies outside the packet")
		}
		if p.fragment {
			if whole := r.add(p.raw, time.Now()); whole != nil && !p.parse(whole) {
				// A reassembled packet has a valid IP header; its payload may
				// still be truncated.
				if len(whole) < headerSize(p.dst) {
					t.Fatal("the reassembled packet is shorter than a header")
				}
			}
			return
		}
		if p.protocol == protoUDP {
			p.checksumOK()
		}
	})
}

func TestChecksumMatchesRFC1071(t *testing.T) {
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
		// If all bits are set, every addition carries.
		for _, b := range [][]byte{b, bytes.Repeat([]byte{0xff}, n)} {
			if got, want := checksum(b, 0), slow(b); got != want {
				t.Fatalf("%d bytes %x: %04x, want %04x", n, b, got, want)
			}
		}
	}
}

// fragments splits a packet with the forwarder's own code.
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

// samePeer is the default of [Config.Peer].
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
					t.Fatalf("packet %d is not a fragment", n)
				}
				got := r.add(p.raw, time.Now())
				if (got != nil) != (n == len(parts)-1) {
					t.Fatalf("round %d: complete after %d of %d fragments", round, n+1, len(parts))
				}
				if got != nil && !bytes.Equal(got[headerSize(src):], whole[headerSize(src):]) {
					t.Fatal("the reassembled packet differs from the original")
				}
			}
			if len(r.partial) != 0 {
				t.Error("unfinished datagrams are left")
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

// TestDeliverSurvivesAnything truncates packets at every length. The engine's own checks keep
// such packets from the data path.
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
