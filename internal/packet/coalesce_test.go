package packet

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
)

// recorder is a sink that records its packets.
type recorder struct{ packets [][]byte }

func (r *recorder) Single(p *Packet) { r.packets = append(r.packets, bytes.Clone(p.Raw)) }

func (r *recorder) Merged(c *Coalescer) {
	var b bytes.Buffer
	if err := c.Write(&b); err != nil || b.Len() != c.Len() {
		panic("the merged packet has not the announced length")
	}
	r.packets = append(r.packets, b.Bytes())
}

// tcpSegment returns a packet with a valid checksum and a timestamp option.
func tcpSegment(src, dst netip.AddrPort, seq uint32, flags byte, stamp uint32, data []byte) []byte {
	const length = TCPHeader + 12
	h := HeaderSize(src.Addr())
	raw := make([]byte, h+length+len(data))
	PutIP(raw, src.Addr(), dst.Addr(), ProtoTCP)
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
	binary.BigEndian.PutUint16(t[16:], Checksum(t, PseudoSum(src.Addr(), dst.Addr(), ProtoTCP, len(t))))
	return raw
}

// run passes packets through a Coalescer in one batch.
func run(t *testing.T, packets [][]byte) [][]byte {
	t.Helper()
	got := &recorder{}
	c := Coalescer{Sink: got}
	for _, raw := range packets {
		var p Packet
		if !p.Parse(raw) {
			t.Fatal("no packet")
		}
		segment, err := p.Segment()
		if err != nil {
			t.Fatal(err)
		}
		c.Add(&p, segment)
	}
	c.Flush()
	return got.packets
}

func segmentOf(t *testing.T, raw []byte) (key string, seq uint32, flags byte, data []byte) {
	t.Helper()
	var p Packet
	if !p.Parse(raw) || len(p.Raw) != len(raw) {
		t.Fatalf("the sink got %d bytes that are not a packet", len(raw))
	}
	h := p.Payload()
	return p.Src.String() + " " + p.Dst.String() + string(h[:4]), binary.BigEndian.Uint32(h[4:]), h[13], h[tcpHeaderSize(h):]
}

const ack, push, fin = byte(ACK), byte(PSH), byte(FIN)

func TestRunOfSegments(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 100)
	for _, src := range []netip.AddrPort{client4Port, client6Port} {
		dst := targetFor(src.Addr())
		next := func(n uint32, flags byte, stamp uint32, size int) []byte {
			return tcpSegment(src, dst, n, flags, stamp, data[:size])
		}
		other := tcpSegment(netip.AddrPortFrom(src.Addr(), 5001), dst, 2000, ack, 1, data)
		for name, tc := range map[string]struct {
			packets [][]byte
			sizes   []int // of the payloads that the sink gets
		}{
			"in order":            {[][]byte{next(0, ack, 1, 1000), next(1000, ack, 1, 1000), next(2000, ack|push, 1, 1000)}, []int{3000}},
			"the last is shorter": {[][]byte{next(0, ack, 1, 1000), next(1000, ack, 1, 10), next(1010, ack, 1, 1000)}, []int{1010, 1000}},
			"a longer one":        {[][]byte{next(0, ack, 1, 10), next(10, ack, 1, 1000)}, []int{10, 1000}},
			"an end":              {[][]byte{next(0, ack, 1, 1000), next(1000, ack|fin, 1, 1000), next(2001, ack, 1, 1000)}, []int{2000, 1000}},
			"a gap":               {[][]byte{next(0, ack, 1, 1000), next(1001, ack, 1, 1000)}, []int{1000, 1000}},
			"another time stamp":  {[][]byte{next(0, ack, 1, 1000), next(1000, ack, 2, 1000)}, []int{1000, 1000}},
			"another connection":  {[][]byte{next(0, ack, 1, 1000), other, next(1000, ack, 1, 1000)}, []int{1000, 1000, 1000}},
			"an acknowledgement":  {[][]byte{next(0, ack, 1, 1000), next(1000, ack, 1, 0), next(1000, ack, 1, 1000)}, []int{1000, 0, 1000}},
			"a reset":             {[][]byte{next(0, ack, 1, 1000), next(1000, ack|byte(RST), 1, 0)}, []int{1000, 0}},
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

// FuzzRun sends a batch of segments of two connections, and expects the sink to get the same
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
			src, dst := client4Port, target4
			if n == 1 {
				src, dst = client6Port, target6
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
					t.Fatal("the sink got more segments than were sent")
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
				t.Fatalf("the sink did not get %d segments", len(left))
			}
		}
	})
}

// FuzzSegmentRun splits a run into segments and merges them again: the data, the flags and the
// first sequence number must survive, and each segment must be valid.
func FuzzSegmentRun(f *testing.F) {
	f.Add(5000, 48, 7, true)
	f.Add(1, 1, 1, false)
	f.Add(0, 100, 3, true)
	f.Add(60000, 1228, 64, false)
	f.Fuzz(func(t *testing.T, size, mss, vector int, ipv6 bool) {
		if size < 0 || size > 64000 || mss < 1 || mss > 9000 || vector < 1 || vector > 128 || size/mss > 2000 {
			return
		}
		src := client4Port
		if ipv6 {
			src = client6Port
		}
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(i * 7)
		}
		const seq = 1<<32 - 100
		whole := tcpSegment(src, targetFor(src.Addr()), seq, ack|push|fin, 1, data)
		ip := HeaderSize(src.Addr())
		headers := ip + tcpHeaderSize(whole[ip:])
		r := SegmentRun{
			IP: whole[:ip:ip], TCP: whole[ip:headers:headers], Size: size, MSS: mss,
			Pieces: [][]byte{whole[:headers], data[:size/3], data[size/3:]}, Skip: headers,
		}
		var slab Slab
		buf := make([]byte, vector*(headers+mss+SlabGap)+SlabGap)
		var packets [][]byte
		for all := false; !all; {
			var n int
			slab.Reset(buf, 128)
			if n, all = r.Split(len(packets), &slab); n == 0 || n != slab.Len() {
				t.Fatalf("%d packets added, %d in the slab", n, slab.Len())
			}
			for i := range n {
				raw, _ := slab.Packet(i)
				packets = append(packets, bytes.Clone(raw))
			}
		}
		var got []byte
		for _, raw := range run(t, packets) {
			_, at, flags, d := segmentOf(t, raw)
			start := uint32(seq)
			if at != start+uint32(len(got)) {
				t.Fatalf("sequence number %d after %d bytes", at, len(got))
			}
			got = append(got, d...)
			if end := flags == ack|push|fin; end != (len(got) == size) {
				t.Fatalf("flags %x after %d of %d bytes", flags, len(got), size)
			}
		}
		if !bytes.Equal(got, data) {
			t.Fatalf("got %d bytes that differ from the %d sent", len(got), size)
		}
	})
}
