package forward

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// packetRecorder is a dispatcher that records the packets handed to the stack.
type packetRecorder struct{ packets [][]byte }

func (d *packetRecorder) DeliverNetworkPacket(_ tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) {
	d.packets = append(d.packets, bytes.Clone(pkt.ToView().AsSlice()))
}
func (*packetRecorder) DeliverLinkPacket(tcpip.NetworkProtocolNumber, *stack.PacketBuffer) {}

// tcpSegment returns a packet with a valid checksum and a timestamp option.
func tcpSegment(src, dst netip.AddrPort, seq uint32, flags byte, stamp uint32, data []byte) []byte {
	const length = header.TCPMinimumSize + 12
	h := headerSize(src.Addr())
	raw := make([]byte, h+length+len(data))
	putIP(raw, src.Addr(), dst.Addr(), protoTCP)
	t := raw[h:]
	binary.BigEndian.PutUint16(t, src.Port())
	binary.BigEndian.PutUint16(t[2:], dst.Port())
	binary.BigEndian.PutUint32(t[4:], seq)
	binary.BigEndian.PutUint32(t[8:], 4711)
	t[12], t[13] = length/4<<4, flags
	binary.BigEndian.PutUint16(t[14:], 1000)
	t[20], t[21], t[22], t[23] = 1, 1, 8, 10
	binary.BigEndian.PutUint32(t[24:], stamp)
	copy(t[length:], data)
	binary.BigEndian.PutUint16(t[16:], checksum(t, pseudoSum(src.Addr(), dst.Addr(), protoTCP, len(t))))
	return raw
}

// run passes packets through a tcpRun in one batch, as [Forwarder.Deliver] does.
func run(t *testing.T, packets [][]byte) [][]byte {
	t.Helper()
	got := &packetRecorder{}
	r := tcpRun{endpoint: &linkEndpoint{dispatcher: got}}
	for _, raw := range packets {
		var p inbound
		if !p.parse(raw) {
			t.Fatal("no packet")
		}
		r.add(&p, transportOf(p.raw))
	}
	r.flush()
	return got.packets
}

func segmentOf(t *testing.T, raw []byte) (key string, seq uint32, flags byte, data []byte) {
	t.Helper()
	var p inbound
	if !p.parse(raw) || len(p.raw) != len(raw) {
		t.Fatalf("the stack got %d bytes that are not a packet", len(raw))
	}
	h := header.TCP(transportOf(raw))
	return p.src.String() + " " + p.dst.String() + string(h[:4]), h.SequenceNumber(), byte(h.Flags()), h[h.DataOffset():]
}

const ack, push, fin = byte(header.TCPFlagAck), byte(header.TCPFlagPsh), byte(header.TCPFlagFin)

func TestRunOfSegments(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 100)
	for i, src := range []netip.AddrPort{client4Port, client6Port} {
		dst := targets(80)[i]
		next := func(n uint32, flags byte, stamp uint32, size int) []byte {
			return tcpSegment(src, dst, n, flags, stamp, data[:size])
		}
		other := tcpSegment(netip.AddrPortFrom(src.Addr(), 5001), dst, 2000, ack, 1, data)
		for name, tc := range map[string]struct {
			packets [][]byte
			sizes   []int // of the payloads that the stack gets
		}{
			"in order":            {[][]byte{next(0, ack, 1, 1000), next(1000, ack, 1, 1000), next(2000, ack|push, 1, 1000)}, []int{3000}},
			"the last is shorter": {[][]byte{next(0, ack, 1, 1000), next(1000, ack, 1, 10), next(1010, ack, 1, 1000)}, []int{1010, 1000}},
			"a longer one":        {[][]byte{next(0, ack, 1, 10), next(10, ack, 1, 1000)}, []int{10, 1000}},
			"an end":              {[][]byte{next(0, ack, 1, 1000), next(1000, ack|fin, 1, 1000), next(2001, ack, 1, 1000)}, []int{2000, 1000}},
			"a gap":               {[][]byte{next(0, ack, 1, 1000), next(1001, ack, 1, 1000)}, []int{1000, 1000}},
			"another time stamp":  {[][]byte{next(0, ack, 1, 1000), next(1000, ack, 2, 1000)}, []int{1000, 1000}},
			"another connection":  {[][]byte{next(0, ack, 1, 1000), other, next(1000, ack, 1, 1000)}, []int{1000, 1000, 1000}},
			"an acknowledgement":  {[][]byte{next(0, ack, 1, 1000), next(1000, ack, 1, 0), next(1000, ack, 1, 1000)}, []int{1000, 0, 1000}},
			"a reset":             {[][]byte{next(0, ack, 1, 1000), next(1000, ack|byte(header.TCPFlagRst), 1, 0)}, []int{1000, 0}},
		} {
			var sizes []int
			for _, raw := range run(t, tc.packets) {
				_, _, _, d := segmentOf(t, raw)
				sizes = append(sizes, len(d))
			}
			if len(sizes) != len(tc.sizes) {
				t.Errorf("%v, %s: sizes %v, want %v", src, name, sizes, tc.sizes)
				continue
			}
			for i := range sizes {
				if sizes[i] != tc.sizes[i] {
					t.Errorf("%v, %s: sizes %v, want %v", src, name, sizes, tc.sizes)
				}
			}
		}
	}
}

// FuzzRun sends a batch of segments of two connections, and expects the stack to get the same
// bytes at the same sequence numbers, in order, with every flag.
func FuzzRun(f *testing.F) {
	f.Add([]byte{0, 100, 0, 100, 0, 100})
	f.Add([]byte{0, 250, 4, 250, 1, 9, 0, 250, 2, 80, 8, 7, 16, 1})
	f.Add(bytes.Repeat([]byte{0, 255}, 300))
	f.Fuzz(func(t *testing.T, plan []byte) {
		type piece struct {
			seq   uint32
			flags byte
			data  string
		}
		var packets [][]byte
		want := map[string][]piece{}
		var seqs [2]uint32
		for ; len(plan) >= 2 && len(packets) < 400; plan = plan[2:] {
			choice, size := plan[0], int(plan[1])*5
			n, flags, stamp := choice&1, ack, uint32(1)
			src, dst := client4Port, targets(80)[0]
			if n == 1 {
				src, dst = client6Port, targets(80)[1]
			}
			if choice&2 != 0 {
				flags |= push
			}
			if choice&4 != 0 {
				flags |= fin
			}
			if choice&8 != 0 {
				seqs[n] += 3
			}
			if choice&16 != 0 {
				stamp = 2
			}
			data := make([]byte, size)
			for i := range data {
				data[i] = byte(len(packets) + i)
			}
			raw := tcpSegment(src, dst, seqs[n], flags, stamp, data)
			packets = append(packets, raw)
			key, _, _, _ := segmentOf(t, raw)
			want[key] = append(want[key], piece{seqs[n], flags, string(data)})
			seqs[n] += uint32(size)
		}
		for _, raw := range run(t, packets) {
			key, seq, flags, data := segmentOf(t, raw)
			var seen byte
			for first := true; first || len(data) > 0; first = false {
				if len(want[key]) == 0 {
					t.Fatal("the stack got more segments than were sent")
				}
				p := want[key][0]
				want[key] = want[key][1:]
				if p.seq != seq || len(p.data) > len(data) || p.data != string(data[:len(p.data)]) {
					t.Fatalf("at %d: %d bytes, want %d at %d", seq, len(data), len(p.data), p.seq)
				}
				seq, data, seen = seq+uint32(len(p.data)), data[len(p.data):], seen|p.flags
			}
			if seen != flags {
				t.Fatalf("flags %x, want %x", flags, seen)
			}
		}
		for _, left := range want {
			if len(left) > 0 {
				t.Fatalf("the stack did not get %d segments", len(left))
			}
		}
	})
}
