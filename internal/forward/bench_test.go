package forward

import (
	"log/slog"
	"net"
	"net/netip"
	"testing"

	"subnetrouter/internal/packet"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// These benchmarks measure the steps that each packet of a bulk transfer passes through. Compare
// runs of one machine only.

// benchBatch is the number of packets in a batch of WireGuard's under load.
const benchBatch = 32

func benchForwarder(b *testing.B) *Forwarder {
	b.Helper()
	f, err := New(Config{Logger: slog.New(slog.DiscardHandler), Resolve: toLoopback})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.Close() })
	return f
}

// BenchmarkDeliverUDP delivers a batch of datagrams of one flow to a socket that nothing reads.
func BenchmarkDeliverUDP(b *testing.B) {
	target, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		b.Fatal(err)
	}
	defer target.Close()
	f := benchForwarder(b)
	dst := targets(target.LocalAddr().(*net.UDPAddr).AddrPort().Port())[0]
	var batch [][]byte
	for range benchBatch {
		batch = append(batch, wholePacket(client4Port, dst, 1200))
	}
	b.ReportAllocs()
	for b.Loop() {
		f.Deliver(batch, 0)
	}
}

// BenchmarkDeliverPing delivers a batch of echo replies, which are parsed and dropped.
func BenchmarkDeliverPing(b *testing.B) {
	f := benchForwarder(b)
	raw := wholePacket(client4Port, targets(80)[0], 56)
	raw[9] = packet.ProtoICMP
	raw[packet.IPv4Header] = 0
	var batch [][]byte
	for range benchBatch {
		batch = append(batch, raw)
	}
	b.ReportAllocs()
	for b.Loop() {
		f.Deliver(batch, 0)
	}
}

// discard is a dispatcher that discards the packets handed to the stack.
type discard struct{}

func (discard) DeliverNetworkPacket(tcpip.NetworkProtocolNumber, *stack.PacketBuffer) {}
func (discard) DeliverLinkPacket(tcpip.NetworkProtocolNumber, *stack.PacketBuffer)    {}

// BenchmarkDeliverTCP delivers a batch of segments that follow one another, without the stack's
// own work.
func BenchmarkDeliverTCP(b *testing.B) {
	for i, src := range []netip.AddrPort{client4Port, client6Port} {
		b.Run([]string{"IPv4", "IPv6"}[i], func(b *testing.B) {
			f := benchForwarder(b)
			f.tcp().endpoint.dispatcher = discard{}
			var batch [][]byte
			data := make([]byte, 1200)
			for n := range benchBatch {
				batch = append(batch, tcpSegment(src, targets(80)[i], uint32(n*len(data)), byte(packet.ACK), 1, data))
			}
			b.ReportAllocs()
			for b.Loop() {
				f.Deliver(batch, 0)
			}
		})
	}
}

// BenchmarkReceiveTCP takes a run of segments from the link.
func BenchmarkReceiveTCP(b *testing.B) {
	const mss, size = 1188, 48 * 1188
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: header.IPv4MinimumSize + header.TCPMinimumSize, Payload: buffer.MakeWithData(make([]byte, size)),
	})
	header.TCP(pkt.TransportHeader().Push(header.TCPMinimumSize)).Encode(&header.TCPFields{
		DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagAck,
	})
	header.IPv4(pkt.NetworkHeader().Push(header.IPv4MinimumSize)).Encode(&header.IPv4Fields{
		TTL: 64, Protocol: packet.ProtoTCP, SrcAddr: tcpip.AddrFrom4([4]byte{10, 0, 3, 4}), DstAddr: tcpip.AddrFrom4(client4.As4()),
	})
	pkt.NetworkProtocolNumber, pkt.TransportProtocolNumber = header.IPv4ProtocolNumber, header.TCPProtocolNumber
	pkt.GSOOptions = stack.GSO{Type: stack.GSOTCPv4, MSS: mss}
	l := newLink(newDrops())
	var slab packet.Slab
	buf := make([]byte, 1<<17)
	b.ReportAllocs()
	b.SetBytes(size)
	for b.Loop() {
		l.send(outgoing{run: stackPacket{pkt.IncRef()}})
		slab.Reset(buf, 64)
		if err := l.receive(&slab); slab.Len() != size/mss || err != nil {
			b.Fatal(slab.Len(), err)
		}
	}
}
