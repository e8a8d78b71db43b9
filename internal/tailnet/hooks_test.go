package tailnet

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"tailscale.com/net/packet"
	"tailscale.com/net/tstun"
	"tailscale.com/types/ipproto"
	"tailscale.com/types/logger"
	"tailscale.com/wgengine/filter"
)

// asking is a Forwarder that denies everything and records the targets.
type asking struct {
	nothing
	mu    sync.Mutex
	asked []netip.AddrPort
}

func (a *asking) Denied(target netip.AddrPort) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = append(a.asked, target)
	return true
}

// TestHookChecksTarget passes packets to the hook in one reused [packet.Parsed], as the
// engine does: a packet without a port must not be checked with an earlier packet's port.
func TestHookChecksTarget(t *testing.T) {
	f := &asking{nothing: nothing{make(chan struct{})}}
	n := startNode(t, startTailnet(t, nil), give(testKey), nil)
	n.forwarder = f
	later := tcp4(laptop, "10.0.1.6", 22, 16)
	binary.BigEndian.PutUint16(later[6:], 20) // a fragment at 160
	gre := tcp4(laptop, "10.0.1.6", 22, 16)
	gre[9] = 47
	via := packet.Generate(packet.UDP6Header{
		Src: netip.MustParseAddr("fd7a:115c:a1e0::9"), Dst: netip.MustParseAddr("fd7a:115c:a1e0:b1a:0:7:a00:106"),
		SrcPort: 1000, DstPort: 9002,
	}, make([]byte, 8))
	tun := n.sys.Tun.Get()
	var p packet.Parsed
	for _, raw := range [][]byte{tcp4(laptop, "10.0.1.6", 9002, 2), later, gre, udp4(laptop, "10.0.1.6", 1000, 9002), later, via} {
		p.Decode(bytes.Clone(raw))
		if r, _ := tun.PostFilterPacketInboundFromWireGuard(&p, tun, nil); !r.IsDrop() {
			t.Errorf("%v passed", &p)
		}
	}
	var want []netip.AddrPort
	for _, port := range []uint16{9002, 0, 0, 9002, 0, 9002} {
		want = append(want, netip.AddrPortFrom(netip.MustParseAddr("10.0.1.6"), port))
	}
	if !slices.Equal(f.asked, want) {
		t.Errorf("asked about %v, want %v", f.asked, want)
	}
}

// receiving is a Handover that counts the datagrams received.
type receiving struct {
	Handover
	received int
}

func (r *receiving) Receive(netip.Addr, []byte) { r.received++ }

// TestHandoverComesFromItsPort: only a datagram from the hand-over's own port is one of a router. Programs behind a router
// can have it send from others.
func TestHandoverComesFromItsPort(t *testing.T) {
	h := &receiving{}
	n := &Node{forwarder: &servingDNS{nothing: nothing{make(chan struct{})}}, handover: h}
	tun := new(tstun.Wrapper)
	for _, mode := range []Mode{ModeUserspace, ModeKernel} {
		n.mode = mode
		n.hookPackets(tun)
		for _, from := range []uint16{HandoverPort, HandoverPort - 1, 50000} {
			h.received = 0
			var p packet.Parsed
			p.Decode(udp4(laptop, "100.64.0.1", from, HandoverPort))
			r, _ := tun.PostFilterPacketInboundFromWireGuard(&p, tun, nil)
			if got, want := h.received == 1, from == HandoverPort; got != want || !r.IsDrop() {
				t.Errorf("mode %v, from port %d: received %v, want %v; dropped %v", mode, from, got, want, r.IsDrop())
			}
		}
	}
}

// servingDNS is a Forwarder with a responder that records the packets delivered.
type servingDNS struct {
	nothing
	addr      netip.Addr
	delivered int
}

func (s *servingDNS) ResponderAddr() netip.Addr            { return s.addr }
func (s *servingDNS) Denied(netip.AddrPort) bool           { return false }
func (s *servingDNS) Deliver(packets [][]byte, offset int) { s.delivered += len(packets) }

// TestHookDeliversToResponder: in kernel mode, all packets to the responder's address are delivered, and
// none to another.
func TestHookDeliversToResponder(t *testing.T) {
	f := &servingDNS{nothing: nothing{make(chan struct{})}}
	n := startNode(t, startTailnet(t, nil), give(testKey), nil)
	n.forwarder = f
	tun := n.sys.Tun.Get()
	pass := func(raw []byte) (delivered bool) {
		var p packet.Parsed
		p.Decode(raw)
		before := f.delivered
		r, _ := tun.PostFilterPacketInboundFromWireGuard(&p, tun, nil)
		if delivered = f.delivered > before; delivered != r.IsDrop() {
			t.Errorf("%v: delivered %v, dropped %v", &p, delivered, r.IsDrop())
		}
		return delivered
	}
	query, segment := udp4(laptop, "10.0.0.2", 1000, 53), tcp4(laptop, "10.0.0.2", 53, 2)
	n.mode = ModeKernel
	n.hookPackets(tun)
	if pass(query) || pass(segment) {
		t.Error("packets were delivered without a responder")
	}
	f.addr = netip.MustParseAddr("10.0.0.2")
	if !pass(query) || !pass(segment) {
		t.Error("packets to the responder were not delivered")
	}
	if pass(udp4(laptop, "10.0.0.3", 1000, 53)) {
		t.Error("a packet to another address was delivered")
	}
	n.mode = ModeUserspace
	n.hookPackets(tun)
	if pass(query) {
		t.Error("a packet did not reach the device, which delivers it in userspace mode")
	}
}

// TestEngineSeesPortsOfFragments checks an assumption of the hook: the engine's filter
// refuses fragments if a later one could hold the port.
func TestEngineSeesPortsOfFragments(t *testing.T) {
	all := filter.NewAllowAllForTest(logger.Discard)
	fragment4 := func(proto byte, blocks, size int, more bool) []byte {
		raw := udp4(laptop, "10.0.3.4", 1000, 9002)[:20]
		raw = append(raw, bytes.Repeat([]byte{0x23, 0x2a}, size/2)...) // port 9002 at any offset
		raw[9] = proto
		flags := uint16(blocks)
		if more {
			flags |= 0x2000
		}
		binary.BigEndian.PutUint16(raw[2:], uint16(len(raw)))
		binary.BigEndian.PutUint16(raw[6:], flags)
		return raw
	}
	fragment6 := func(proto byte, blocks, size int, more bool) []byte {
		raw := make([]byte, 48, 48+size)
		raw[0], raw[6], raw[40] = 6<<4, 44, proto
		src, dst := netip.MustParseAddr("fd7a:115c:a1e0::9").As16(), netip.MustParseAddr("2600:1f18::4").As16()
		copy(raw[8:], src[:])
		copy(raw[24:], dst[:])
		flags := uint16(blocks) << 3
		if more {
			flags |= 1
		}
		binary.BigEndian.PutUint16(raw[42:], flags)
		raw = append(raw, bytes.Repeat([]byte{0x23, 0x2a}, size/2)...)
		binary.BigEndian.PutUint16(raw[4:], uint16(len(raw)-40))
		return raw
	}
	for name, build := range map[string]func(proto byte, blocks, size int, more bool) []byte{"IPv4": fragment4, "IPv6": fragment6} {
		for _, proto := range []byte{6, 17} {
			header := map[byte]int{6: 20, 17: 8}[proto]
			var p packet.Parsed
			// A first fragment that does not hold the transport header.
			for size := 0; size < header; size += 4 {
				if p.Decode(build(proto, 0, size, true)); all.RunIn(&p, 0) == filter.Accept {
					t.Errorf("%s, protocol %d: a first fragment of %d bytes passes", name, proto, size)
				}
			}
			// A later fragment that could hold part of one.
			for blocks := 1; blocks*8 < 60+header; blocks++ {
				if p.Decode(build(proto, blocks, 16, false)); all.RunIn(&p, 0) == filter.Accept {
					t.Errorf("%s, protocol %d: a fragment at %d bytes passes", name, proto, blocks*8)
				}
			}
			p.Decode(build(proto, 0, 80, true))
			if all.RunIn(&p, 0) != filter.Accept || dstPort(&p) != 9002 {
				t.Errorf("%s, protocol %d: a first fragment has port %d", name, proto, dstPort(&p))
			}
			p.Decode(build(proto, 10, 16, false))
			if all.RunIn(&p, 0) != filter.Accept || dstPort(&p) != 0 {
				t.Errorf("%s, protocol %d: a later fragment has port %d", name, proto, dstPort(&p))
			}
		}
	}
}

func udp4(src, dst string, from, to uint16) []byte {
	return packet.Generate(packet.UDP4Header{
		Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst), SrcPort: from, DstPort: to,
	}, make([]byte, 100))
}

func tcp4(src, dst string, to uint16, flags byte) []byte {
	h := packet.IP4Header{IPProto: ipproto.TCP, Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst)}
	segment := make([]byte, 20)
	segment[2], segment[3], segment[12], segment[13] = byte(to>>8), byte(to), 5<<4, flags
	return packet.Generate(h, segment)
}
