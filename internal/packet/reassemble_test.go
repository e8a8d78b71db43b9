package packet

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

// drops are the fragments that a Reassembler dropped.
type drops [FragmentDrops]int

func newReassembly(node func(netip.Addr) netip.Addr) (*Reassembler, *drops) {
	d := new(drops)
	return NewReassembler(ReassemblerConfig{Node: node, Dropped: func(reason FragmentDrop, n int) { d[reason] += n }}), d
}

// fragmented returns a datagram of a client, split into fragments with the given
// identification.
func fragmented(src netip.Addr, id uint16, size int) [][]byte {
	parts := fragments(wholePacket(netip.AddrPortFrom(src, 5000), targetFor(src), size))
	for _, part := range parts {
		if src.Is4() {
			binary.BigEndian.PutUint16(part[4:], id)
		} else {
			binary.BigEndian.PutUint32(part[IPv6Header+4:], uint32(id))
		}
	}
	return parts
}

// TestReassemblyUnderLoss delivers 200 datagrams a second of 4 fragments each for 60 s of
// virtual time and loses 1 % of the fragments: all datagrams without a lost fragment must
// arrive.
func TestReassemblyUnderLoss(t *testing.T) {
	r, d := newReassembly(samePeer)
	random := rand.New(rand.NewPCG(1, 2))
	begin := time.Unix(1_700_000_000, 0)
	const rate, seconds = 200, 60
	delivered, possible, arrived := 0, 0, 0
	for i := range rate * seconds {
		now := begin.Add(time.Duration(i) * time.Second / rate)
		if i%rate == 0 {
			r.Sweep(now)
		}
		whole := true
		for _, part := range fragmented(client4, uint16(i), 4700) {
			if random.IntN(100) == 0 {
				whole = false
				continue
			}
			delivered++
			if r.Add(part, now) != nil {
				arrived++
			}
		}
		if whole {
			possible++
		}
	}
	if arrived*100 < possible*95 {
		t.Errorf("%d datagrams arrived, want %d", arrived, possible)
	}
	r.Sweep(begin.Add(time.Hour))
	if lost := int(d[FragmentTimeout]); len(r.partial) != 0 || len(r.sources) != 0 || lost+4*arrived != delivered {
		t.Errorf("%d datagrams are left; of %d fragments %d arrived and %d timed out", len(r.partial), delivered, 4*arrived, lost)
	}
}

// TestReassemblyEvictsTheOldest: unfinished datagrams, of the same source or of others, do not
// prevent a new datagram from being completed.
func TestReassemblyEvictsTheOldest(t *testing.T) {
	// The node's two addresses have one share.
	node := func(a netip.Addr) netip.Addr {
		if a == client6 {
			return client4
		}
		return a
	}
	r, d := newReassembly(node)
	now := time.Unix(1_700_000_000, 0)
	complete := func(src netip.Addr, id uint16) bool {
		var whole []byte
		for _, part := range fragmented(src, id, 2000) {
			whole = r.Add(part, now)
		}
		return whole != nil
	}
	for i := range 2000 {
		src := []netip.Addr{client4, client6}[i%2]
		r.Add(fragmented(src, uint16(i), 2000)[0], now)
	}
	if got := r.sources[client4].Len(); got != maxPerSource {
		t.Errorf("one node has %d unfinished datagrams, want its share of %d", got, maxPerSource)
	}
	if d[FragmentEvicted] != 2000-maxPerSource {
		t.Errorf("%d fragments were counted as evicted, want %d", d[FragmentEvicted], 2000-maxPerSource)
	}
	if !complete(client4, 5000) || !complete(client6, 5000) {
		t.Error("a new datagram was not completed because older ones are unfinished")
	}
	if r.Add(fragmented(client6, 1999, 2000)[1], now) == nil {
		t.Error("the youngest unfinished datagram was evicted")
	}

	// Many sources fill the table; each still completes its datagrams.
	for i := range 4 * maxReassemblies {
		now = now.Add(time.Microsecond)
		src := netip.AddrFrom4([4]byte{100, 65, byte(i >> 8), byte(i)})
		if !complete(src, 1) {
			t.Fatalf("source %d: a new datagram was not completed", i)
		}
		r.Add(fragmented(src, 2, 2000)[0], now)
	}
	if len(r.partial) != maxReassemblies {
		t.Errorf("%d unfinished datagrams, want the limit of %d", len(r.partial), maxReassemblies)
	}
	if got := r.sources[client4]; got != nil {
		t.Errorf("the source with the most and oldest datagrams kept %d of them", got.Len())
	}
	r.Sweep(now.Add(reassemblyTimeout - 10*time.Millisecond))
	if len(r.partial) != maxReassemblies {
		t.Error("datagrams were dropped before the timeout")
	}
	r.Sweep(now.Add(reassemblyTimeout + time.Millisecond))
	if len(r.partial) != 0 || len(r.sources) != 0 {
		t.Errorf("%d datagrams of %d sources are left after the timeout", len(r.partial), len(r.sources))
	}
}

// TestReassemblyRefusesOverlap: overlapping fragments void their datagram, unless they are
// exact duplicates.
func TestReassemblyRefusesOverlap(t *testing.T) {
	for _, src := range []netip.Addr{client4, client6} {
		for name, tc := range map[string]struct {
			change func(first []byte) []byte
			whole  bool
			reason FragmentDrop
		}{
			"exact duplicate": {func(b []byte) []byte { return b }, true, FragmentDuplicate},
			"other bytes":     {func(b []byte) []byte { b[len(b)-1]++; return b }, false, FragmentOverlap},
			"a part of it": {func(b []byte) []byte {
				b = b[:len(b)-8]
				if src.Is4() {
					binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
				} else {
					binary.BigEndian.PutUint16(b[4:], uint16(len(b)-IPv6Header))
				}
				return b
			}, false, FragmentOverlap},
		} {
			r, d := newReassembly(samePeer)
			parts := fragmented(src, 1, 3000)
			now := time.Unix(1_700_000_000, 0)
			r.Add(parts[0], now)
			r.Add(tc.change(bytes.Clone(parts[0])), now)
			var whole []byte
			for _, part := range parts[1:] {
				whole = r.Add(part, now)
			}
			if (whole != nil) != tc.whole || d[tc.reason] == 0 {
				t.Errorf("%v, %s: whole %v, counted %v", src, name, whole != nil, d)
			}
		}
	}
}

// TestReassemblyEndsOnce: a second last fragment, or data beyond the end, voids the datagram.
func TestReassemblyEndsOnce(t *testing.T) {
	r, d := newReassembly(samePeer)
	now := time.Unix(1_700_000_000, 0)
	long, short := fragmented(client4, 1, 4000), fragmented(client4, 1, 3000)
	for _, part := range [][]byte{short[2], long[3], long[0], long[1]} {
		if r.Add(part, now) != nil {
			t.Error("a datagram with two last fragments was reassembled")
		}
	}
	if d[FragmentOverlap] == 0 {
		t.Error("the drop was not counted")
	}
}

// TestReassemblyForgetsOldIdentifications: a fragment does not complete a datagram that has
// timed out.
func TestReassemblyForgetsOldIdentifications(t *testing.T) {
	r, d := newReassembly(samePeer)
	now := time.Unix(1_700_000_000, 0)
	parts := fragmented(client4, 7, 2000)
	r.Add(parts[0], now)
	later := now.Add(reassemblyTimeout + time.Millisecond)
	if r.Add(parts[1], later) != nil {
		t.Error("fragments of two datagrams were reassembled into one")
	}
	if d[FragmentTimeout] != 1 || r.Add(parts[0], later) == nil {
		t.Error("the second datagram did not replace the first")
	}
}

func TestReassemblyInAnyOrder(t *testing.T) {
	for _, src := range []netip.Addr{client4, client6} {
		whole := wholePacket(netip.AddrPortFrom(src, 5000), targetFor(src), 9000)
		parts := fragments(whole)
		for round := range 20 {
			rand.Shuffle(len(parts), func(a, b int) { parts[a], parts[b] = parts[b], parts[a] })
			r, _ := newReassembly(samePeer)
			for n, part := range parts {
				var p Packet
				if !p.Parse(part) || !p.Fragment {
					t.Fatalf("packet %d is not a fragment", n)
				}
				got := r.Add(p.Raw, time.Now())
				if (got != nil) != (n == len(parts)-1) {
					t.Fatalf("round %d: complete after %d of %d fragments", round, n+1, len(parts))
				}
				if got != nil && !bytes.Equal(got[HeaderSize(src):], whole[HeaderSize(src):]) {
					t.Fatal("the reassembled packet differs from the original")
				}
			}
			if len(r.partial) != 0 {
				t.Error("unfinished datagrams are left")
			}
		}
	}
}

// FuzzReassemble adds fragments with arbitrary offsets and lengths of one datagram, and expects
// each to become a part of one packet or be dropped once, and a packet to have the datagram's
// bytes.
func FuzzReassemble(f *testing.F) {
	f.Add([]byte{0, 4, 4, 4, 8, 4 | 128})
	f.Add([]byte{8, 2 | 128, 0, 4, 4, 4, 4, 4})
	f.Add([]byte{0, 4, 2, 4, 4, 4 | 128})
	f.Fuzz(func(t *testing.T, plan []byte) {
		data := wholePacket(client4Port, target4, 255*8+127*8)[IPv4Header:]
		r, d := newReassembly(samePeer)
		now := time.Unix(1_700_000_000, 0)
		added, used := 0, 0
		for ; len(plan) >= 2; plan = plan[2:] {
			offset, size, last := int(plan[0])*8, int(plan[1]&127)*8, plan[1]&128 != 0
			raw := make([]byte, IPv4Header+size)
			copy(raw[IPv4Header:], data[offset:])
			PutIP(raw, client4, target4.Addr(), ProtoUDP)
			field := uint16(offset / 8)
			if !last {
				field |= 0x2000
			}
			binary.BigEndian.PutUint16(raw[6:], field)
			var p Packet
			if offset == 0 && last {
				continue // the whole datagram
			}
			if !p.Parse(raw) || !p.Fragment {
				t.Fatal("no fragment")
			}
			added++
			before := 0
			for _, dg := range r.partial {
				before = len(dg.fragments)
			}
			if whole := r.Add(raw, now); whole != nil {
				used += before + 1
				if got := whole[IPv4Header:]; !bytes.Equal(got, data[:len(got)]) {
					t.Fatal("the reassembled packet differs from the original")
				}
			}
		}
		r.Close()
		for _, n := range d {
			used += n
		}
		if used != added || len(r.partial) != 0 || len(r.sources) != 0 {
			t.Fatalf("%d fragments were added, %d used or dropped (%v)", added, used, *d)
		}
	})
}

// FuzzSplit splits a packet of any size for any MTU, and expects fragments that fit and that
// reassemble to it.
func FuzzSplit(f *testing.F) {
	f.Add(9000, 1280, true)
	f.Add(1233, 1280, false)
	f.Add(0, 100, false)
	f.Fuzz(func(t *testing.T, size, mtu int, ipv6 bool) {
		if size < 0 || size > 60000 || mtu < 576 || mtu > 9000 {
			return
		}
		src := client4Port
		if ipv6 {
			src = client6Port
		}
		whole := wholePacket(src, targetFor(src.Addr()), size)
		r, _ := newReassembly(samePeer)
		var got []byte
		for part := Split(whole, mtu, 9); part.More(); {
			b := make([]byte, mtu)
			n := part.Next(b)
			var p Packet
			if !p.Parse(b[:n]) || len(p.Raw) != n {
				t.Fatalf("the fragment %x is invalid", b[:n])
			}
			if !p.Fragment {
				got = p.Raw
				continue
			}
			if got = r.Add(p.Raw, time.Unix(1_700_000_000, 0)); (got == nil) != part.More() {
				t.Fatal("the packet was complete before its last fragment, or not after it")
			}
		}
		if h := HeaderSize(src.Addr()); got == nil || !bytes.Equal(got[h:], whole[h:]) {
			t.Fatalf("got %d bytes that differ from the %d sent", len(got), len(whole))
		}
	})
}
