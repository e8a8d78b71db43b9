package routes

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

func TestTrim(t *testing.T) {
	for _, tt := range []struct{ name, from, exclude, want string }{
		{"neighbours stay apart", "10.31.0.0/16 10.30.0.0/16", "", "10.30.0.0/16 10.31.0.0/16"},
		{"covered", "10.0.3.0/24 10.0.0.0/16 10.0.0.0/24 10.0.0.0/16", "", "10.0.0.0/16"},
		{"covered twice", "10.0.0.0/8 10.0.0.0/16 10.0.1.0/24 11.0.0.0/8", "", "10.0.0.0/8 11.0.0.0/8"},
		{"split only where it must", "10.30.0.0/16 10.31.0.0/16", "10.31.128.0/17", "10.30.0.0/16 10.31.0.0/17"},
		{"neighbours excluded", "10.30.0.0/15", "10.30.0.0/16 10.31.0.0/16", ""},
		{"IPv6", "fd12:1::/32 fd12::/32 10.0.0.0/8", "", "10.0.0.0/8 fd12::/32 fd12:1::/32"},
		{"masks", "10.0.1.2/16 ::ffff:10.1.0.0/112", "", "10.0.0.0/16 10.1.0.0/16"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := prefixes(tt.from)
			before := slices.Clone(in)
			if got, want := Trim(in, prefixes(tt.exclude)), prefixes(tt.want); !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
			if !slices.Equal(in, before) {
				t.Errorf("the argument changed to %v", in)
			}
		})
	}
}

func TestIntersect(t *testing.T) {
	for _, tt := range []struct{ p, with, want string }{
		{"10.0.0.0/8", "10.2.0.0/16 10.3.0.0/16 172.16.0.0/16 10.3.1.0/24", "10.2.0.0/16 10.3.0.0/16"},
		{"10.1.2.0/24", "10.1.0.0/16", "10.1.2.0/24"},
		{"10.1.0.0/16", "10.1.0.0/16", "10.1.0.0/16"},
		{"10.2.0.0/16", "10.1.0.0/16 fd00::/8", ""},
		{"10.0.0.0/8", "", ""},
		{"fd00::/8", "fd12::/16 10.0.0.0/8", "fd12::/16"},
	} {
		if got, want := Intersect(netip.MustParsePrefix(tt.p), prefixes(tt.with)), prefixes(tt.want); !slices.Equal(got, want) {
			t.Errorf("Intersect(%s, %s) = %v, want %v", tt.p, tt.with, got, want)
		}
	}
}

func FuzzTrim(f *testing.F) {
	for _, seed := range [][2]string{{"10.30.0.0/16 10.31.0.0/16", "10.31.128.0/17"}, {"0.0.0.0/0 ::/0", "1.2.3.4/32 ffff::1/128"}, {"10.0.0.0/8 10.1.0.0/16", ""}} {
		f.Add(encode(prefixes(seed[0])), encode(prefixes(seed[1])))
	}
	f.Fuzz(func(t *testing.T, from, without []byte) {
		ps, exclude := decode(from), decode(without)
		out := Trim(ps, exclude)
		for _, a := range boundaries(ps, exclude, out) {
			if want := contains(ps, a) && !contains(exclude, a); contains(out, a) != want {
				t.Fatalf("%v minus %v = %v: contains %v is %t", ps, exclude, out, a, !want)
			}
		}
		if !slices.IsSortedFunc(out, netip.Prefix.Compare) {
			t.Fatalf("out of order: %v", out)
		}
		for i := 1; i < len(out); i++ {
			if out[i-1].Overlaps(out[i]) {
				t.Fatalf("%v and %v overlap", out[i-1], out[i])
			}
		}
		slices.Reverse(ps)
		if again := Trim(ps, exclude); !slices.Equal(again, out) {
			t.Fatalf("%v in another order gives %v", out, again)
		}
		if got, want := Normalize(out), Exclude(ps, exclude); !slices.Equal(got, want) {
			t.Fatalf("normalized: %v, want %v", got, want)
		}
		for _, p := range out { // no result is larger than a given prefix
			if !slices.ContainsFunc(ps, func(q netip.Prefix) bool { q, _ = unmapped(q); return Covers(q, p) }) {
				t.Fatalf("%v is in no prefix of %v", p, ps)
			}
		}
	})
}

// FuzzDiff checks that after is before, minus removed, plus added.
func FuzzDiff(f *testing.F) {
	f.Add(encode(prefixes("10.0.0.0/8 fd00::/8")), encode(prefixes("10.0.0.0/8 11.0.0.0/8")))
	f.Fuzz(func(t *testing.T, b, a []byte) {
		before, after := Normalize(decode(b)), Normalize(decode(a))
		added, removed := Diff(before, after)
		got := slices.DeleteFunc(slices.Clone(before), func(p netip.Prefix) bool { return slices.Contains(removed, p) })
		got = append(got, added...)
		slices.SortFunc(got, netip.Prefix.Compare)
		if !slices.Equal(got, after) {
			t.Fatalf("%v - %v + %v = %v, want %v", before, removed, added, got, after)
		}
	})
}

// A prefix list has at most 1,000 entries.
func BenchmarkTrim1000(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	random := func(bits, n int) []netip.Prefix {
		ps := make([]netip.Prefix, n)
		for i := range ps {
			a := netip.AddrFrom4([4]byte{10, byte(rng.Uint32()), byte(rng.Uint32()), byte(rng.Uint32())})
			ps[i] = netip.PrefixFrom(a, bits).Masked()
		}
		return ps
	}
	ps, exclude := random(20, 1000), random(28, 50)
	b.ReportAllocs()
	for b.Loop() {
		Trim(ps, exclude)
	}
}
