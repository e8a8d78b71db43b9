package packet

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
)

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

// segmentOf returns the fields of a packet that [Packet.Segment] accepts.
func segmentOf(t *testing.T, raw []byte) (seq uint32, flags byte, data []byte) {
	t.Helper()
	var p Packet
	if !p.Parse(raw) || len(p.Raw) != len(raw) {
		t.Fatalf("%d bytes are not a packet", len(raw))
	}
	s, err := p.Segment()
	if err != nil {
		t.Fatal(err)
	}
	return binary.BigEndian.Uint32(s[4:]), s[13], s[tcpHeaderSize(s):]
}

// FuzzSegmentRun splits a run into segments: together they have the data, the flags and the sequence
// numbers of the run, and each is valid.
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
		const ack, push, fin = byte(ACK), byte(PSH), byte(FIN)
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
		for _, raw := range packets {
			at, flags, d := segmentOf(t, raw)
			start := uint32(seq)
			if at != start+uint32(len(got)) {
				t.Fatalf("sequence number %d after %d bytes", at, len(got))
			}
			got = append(got, d...)
			if end := flags == ack|push|fin; end != (len(got) == size) || !end && flags != ack {
				t.Fatalf("flags %x after %d of %d bytes", flags, len(got), size)
			}
		}
		if !bytes.Equal(got, data) {
			t.Fatalf("got %d bytes that differ from the %d sent", len(got), size)
		}
	})
}
