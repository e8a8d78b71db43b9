package forward

import (
	"bytes"
	"encoding/binary"
	"testing"

	"subnetrouter/internal/packet"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// TestRunLongerThanTheVector sends a run of more segments than one Receive takes; a client may
// ask for segments that small.
func TestRunLongerThanTheVector(t *testing.T) {
	const mss, size = 48, 5000
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i * 7)
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: header.IPv4MinimumSize + header.TCPMinimumSize, Payload: buffer.MakeWithData(data),
	})
	header.TCP(pkt.TransportHeader().Push(header.TCPMinimumSize)).Encode(&header.TCPFields{
		SeqNum: 1000, DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagAck | header.TCPFlagPsh | header.TCPFlagFin,
	})
	header.IPv4(pkt.NetworkHeader().Push(header.IPv4MinimumSize)).Encode(&header.IPv4Fields{
		TTL: 64, Protocol: packet.ProtoTCP, SrcAddr: tcpip.AddrFrom4([4]byte{10, 0, 3, 4}), DstAddr: tcpip.AddrFrom4(client4.As4()),
	})
	pkt.NetworkProtocolNumber, pkt.TransportProtocolNumber = header.IPv4ProtocolNumber, header.TCPProtocolNumber
	pkt.GSOOptions = stack.GSO{Type: stack.GSOTCPv4, MSS: mss}

	l := newLink(newDrops())
	l.send(outgoing{run: stackPacket{pkt}})
	after := packetBuffers.Get().(*packetBuffer)
	after.n = copy(after.b[:], "behind it")
	l.send(outgoing{own: after})

	var slab packet.Slab
	buf := make([]byte, 80_000)
	var got []byte
	last := false
	for calls := 0; !last; calls++ {
		slab.Reset(buf, 32)
		if err := l.receive(&slab); err != nil || slab.Len() == 0 || calls > 10 {
			t.Fatalf("call %d gave %d packets, %v; %d bytes so far", calls, slab.Len(), err, len(got))
		}
		for i := range slab.Len() {
			raw, _ := slab.Packet(i)
			if string(raw) == "behind it" {
				last = true
				continue
			}
			segment := raw[packet.IPv4Header:]
			if seq := binary.BigEndian.Uint32(segment[4:]); seq != uint32(1000+len(got)) {
				t.Fatalf("sequence number %d after %d bytes", seq, len(got))
			}
			if packet.Checksum(raw[:packet.IPv4Header], 0) != 0 || packet.Checksum(segment, packet.PseudoSum(targets(0)[0].Addr(), client4, packet.ProtoTCP, len(segment))) != 0 {
				t.Fatal("wrong checksum")
			}
			got = append(got, segment[20:]...)
			if fin := segment[13]&byte(header.TCPFlagFin) != 0; fin != (len(got) == size) {
				t.Fatalf("FIN is %v after %d of %d bytes", fin, len(got), size)
			}
		}
	}
	if !bytes.Equal(got, data) {
		t.Errorf("got %d bytes that differ from the %d sent", len(got), size)
	}
}
