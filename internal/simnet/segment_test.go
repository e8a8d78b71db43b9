package simnet_test

import (
	"errors"
	"net/netip"
	"reflect"
	"testing"

	"subnetrouter/internal/simnet"
)

// segment returns a segment with all fields set.
func segment(v6 bool) simnet.Segment {
	s := simnet.Segment{
		Src: netip.MustParseAddrPort("10.0.0.1:1000"), Dst: netip.MustParseAddrPort("10.0.0.2:443"),
		Seq: 1<<32 - 2, Ack: 3, Flags: simnet.SYN | simnet.ACK, Window: 65535,
		MSS: 1440, Scale: 7, SACKPermitted: true, Timestamps: true, TSVal: 4, TSEcr: 5,
		SACK: []simnet.Block{{Left: 6, Right: 7}}, Data: []byte("odd length!"),
	}
	if v6 {
		s.Src, s.Dst = netip.MustParseAddrPort("[fd00::1]:1000"), netip.MustParseAddrPort("[fd00::2]:443")
	}
	return s
}

// TestSegment: a packet parses to the segment that it was made from, and with any bit changed
// to another or to none.
func TestSegment(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		want := segment(v6)
		p := want.Packet()
		if got, err := simnet.Parse(p); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%v, %+v, want %+v", err, got, want)
		}
		for i := range 8 * len(p) {
			p[i/8] ^= 1 << (i % 8)
			got, err := simnet.Parse(p)
			// Traffic class, flow label and hop limit have no checksum.
			if uncovered := v6 && (i/8 < 4 || i/8 == 7); err == nil && (!uncovered || !reflect.DeepEqual(got, want)) {
				t.Errorf("IPv6 %v: bit %d may change", v6, i)
			}
			p[i/8] ^= 1 << (i % 8)
		}
	}
}

// FuzzParse: no packet makes Parse panic, and a segment that it returns leads to a packet that
// parses to the same.
func FuzzParse(f *testing.F) {
	for _, v6 := range []bool{false, true} {
		s := segment(v6)
		f.Add(s.Packet())
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		s, err := simnet.Parse(p)
		simnet.TooBig(p)
		if err != nil {
			if !errors.Is(err, simnet.ErrChecksum) && !errors.Is(err, simnet.ErrMalformed) && !errors.Is(err, simnet.ErrNotTCP) {
				t.Errorf("unknown error %v", err)
			}
			return
		}
		if len(s.SACK) > 2 {
			return // with the other options, they may be more than fit
		}
		again, err := simnet.Parse(s.Packet())
		if err != nil || !reflect.DeepEqual(s, again) {
			t.Errorf("%v: %+v, want %+v", err, again, s)
		}
	})
}
