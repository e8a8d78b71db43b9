package forward

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

// fragmented returns a datagram of a client, split into fragments with the given
// identification.
func fragmented(t *testing.T, src netip.Addr, id uint16, size int) [][]byte {
	t.Helper()
	dst := targets(80)[familyOf(src)]
	parts := fragments(t, wholePacket(netip.AddrPortFrom(src, 5000), dst, size))
	for _, part := range parts {
		if src.Is4() {
			binary.BigEndian.PutUint16(part[4:], id)
		} else {
			binary.BigEndian.PutUint32(part[ipv6Header+4:], uint32(id))
		}
	}
	return parts
}

// TestReassemblyUnderLoss delivers 200 datagrams a second of 4 fragments each for 60 s of
// virtual time and loses 1 % of the fragments: all datagrams without a lost fragment must
// arrive.
func TestReassemblyUnderLoss(t *testing.T) {
	d := newDrops()
	r := newReassembly(d, samePeer)
	random := rand.New(rand.NewPCG(1, 2))
	begin := time.Unix(1_700_000_000, 0)
	const rate, seconds = 200, 60
	delivered, possible, arrived := 0, 0, 0
	for i := range rate * seconds {
		now := begin.Add(time.Duration(i) * time.Second / rate)
		if i%rate == 0 {
			r.sweep(now)
		}
		whole := true
		for _, part := range fragmented(t, client4, uint16(i), 4700) {
			if random.IntN(100) == 0 {
				whole = false
				continue
			}
			delivered++
			if r.add(part, now) != nil {
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
	r.sweep(begin.Add(time.Hour))
	if lost := int(d.count(dropFragmentTimeout)); len(r.partial) != 0 || len(r.sources) != 0 || lost+4*arrived != delivered {
		t.Errorf("%d datagrams are left; of %d fragments %d arrived and %d timed out", len(r.partial), delivered, 4*arrived, lost)
	}
}

// TestReassemblyEvictsTheOldest: unfinished datagrams, of the same source or of others, do not
// prevent a new datagram from being completed.
func TestReassemblyEvictsTheOldest(t *testing.T) {
	d := newDrops()
	// The node's two addresses have one share.
	node := func(a netip.Addr) netip.Addr {
		if a == client6 {
			return client4
		}
		return a
	}
	r := newReassembly(d, node)
	now := time.Unix(1_700_000_000, 0)
	complete := func(src netip.Addr, id uint16) bool {
		var whole []byte
		for _, part := range fragmented(t, src, id, 2000) {
			whole = r.add(part, now)
		}
		return whole != nil
	}
	for i := range 2000 {
		src := []netip.Addr{client4, client6}[i%2]
		r.add(fragmented(t, src, uint16(i), 2000)[0], now)
	}
	if got := r.sources[client4].Len(); got != maxPerSource {
		t.Errorf("one node has %d unfinished datagrams, want its share of %d", got, maxPerSource)
	}
	if d.count(dropFragmentEvicted) != 2000-maxPerSource {
		t.Errorf("%d fragments were counted as evicted, want %d", d.count(dropFragmentEvicted), 2000-maxPerSource)
	}
	if !complete(client4, 5000) || !complete(client6, 5000) {
		t.Error("a new datagram was not completed because older ones are unfinished")
	}
	if r.add(fragmented(t, client6, 1999, 2000)[1], now) == nil {
		t.Error("the youngest unfinished datagram was evicted")
	}

	// Many sources fill the table; each still completes its datagrams.
	for i := range 4 * maxReassemblies {
		now = now.Add(time.Microsecond)
		src := netip.AddrFrom4([4]byte{100, 65, byte(i >> 8), byte(i)})
		if !complete(src, 1) {
			t.Fatalf("source %d: a new datagram was not completed", i)
		}
		r.add(fragmented(t, src, 2, 2000)[0], now)
	}
	if len(r.partial) != maxReassemblies {
		t.Errorf("%d unfinished datagrams, want the limit of %d", len(r.partial), maxReassemblies)
	}
	if got := r.sources[client4]; got != nil {
		t.Errorf("the source with the most and oldest datagrams kept %d of them", got.Len())
	}
	r.sweep(now.Add(reassemblyTimeout - 10*time.Millisecond))
	if len(r.partial) != maxReassemblies {
		t.Error("datagrams were dropped before the timeout")
	}
	r.sweep(now.Add(reassemblyTimeout + time.Millisecond))
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
			reason dropReason
		}{
			"exact duplicate": {func(b []byte) []byte { return b }, true, dropFragmentDuplicate},
			"other bytes":     {func(b []byte) []byte { b[len(b)-1]++; return b }, false, dropFragmentOverlap},
			"a part of it": {func(b []byte) []byte {
				b = b[:len(b)-8]
				if src.Is4() {
					binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
				} else {
					binary.BigEndian.PutUint16(b[4:], uint16(len(b)-ipv6Header))
				}
				return b
			}, false, dropFragmentOverlap},
		} {
			d := newDrops()
			r := newReassembly(d, samePeer)
			parts := fragmented(t, src, 1, 3000)
			now := time.Unix(1_700_000_000, 0)
			r.add(parts[0], now)
			r.add(tc.change(bytes.Clone(parts[0])), now)
			var whole []byte
			for _, part := range parts[1:] {
				whole = r.add(part, now)
			}
			if (whole != nil) != tc.whole || d.count(tc.reason) == 0 {
				t.Errorf("%v, %s: whole %v, counted %d as %s", src, name, whole != nil, d.count(tc.reason), dropNames[tc.reason])
			}
		}
	}
}

// TestReassemblyEndsOnce: a second last fragment, or data beyond the end, voids the datagram.
func TestReassemblyEndsOnce(t *testing.T) {
	d := newDrops()
	r := newReassembly(d, samePeer)
	now := time.Unix(1_700_000_000, 0)
	long, short := fragmented(t, client4, 1, 4000), fragmented(t, client4, 1, 3000)
	for _, part := range [][]byte{short[2], long[3], long[0], long[1]} {
		if r.add(part, now) != nil {
			t.Error("a datagram with two last fragments was reassembled")
		}
	}
	if d.count(dropFragmentOverlap) == 0 {
		t.Error("the drop was not counted")
	}
}

// TestReassemblyForgetsOldIdentifications: a fragment does not complete a datagram that has
// timed out.
func TestReassemblyForgetsOldIdentifications(t *testing.T) {
	d := newDrops()
	r := newReassembly(d, samePeer)
	now := time.Unix(1_700_000_000, 0)
	parts := fragmented(t, client4, 7, 2000)
	r.add(parts[0], now)
	later := now.Add(reassemblyTimeout + time.Millisecond)
	if r.add(parts[1], later) != nil {
		t.Error("fragments of two datagrams were reassembled into one")
	}
	if d.count(dropFragmentTimeout) != 1 || r.add(parts[0], later) == nil {
		t.Error("the second datagram did not replace the first")
	}
}
