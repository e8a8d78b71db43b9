package routes

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

func TestNormalize(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"nothing", "", ""},
		{"masks", "10.0.1.2/16", "10.0.0.0/16"},
		{"dedups", "10.0.0.0/16 10.0.0.0/16 10.0.9.9/16", "10.0.0.0/16"},
		{"covered", "10.0.3.0/24 10.0.0.0/16 10.0.0.0/24", "10.0.0.0/16"},
		{"adjacent", "10.0.128.0/17 10.0.0.0/17", "10.0.0.0/16"},
		{"adjacent twice", "10.0.0.0/18 10.0.64.0/18 10.0.128.0/17", "10.0.0.0/16"},
		{"adjacent but not one prefix", "10.1.0.0/16 10.2.0.0/16", "10.1.0.0/16 10.2.0.0/16"},
		{"another length beside", "10.0.0.0/17 10.0.128.0/18", "10.0.0.0/17 10.0.128.0/18"},
		{"order", "fd00::/48 192.168.0.0/16 ::1/128 10.0.0.0/8", "10.0.0.0/8 192.168.0.0/16 ::1/128 fd00::/48"},
		{"halves of everything", "128.0.0.0/1 0.0.0.0/1", "0.0.0.0/0"},
		{"families stay apart", "0.0.0.0/0 ::/0", "0.0.0.0/0 ::/0"},
		{"IPv4 as IPv6", "::ffff:10.0.0.0/105 10.128.0.0/9", "10.0.0.0/8"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := prefixes(tt.in)
			before := slices.Clone(in)
			if got, want := Normalize(in), prefixes(tt.want); !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
			if !slices.Equal(in, before) {
				t.Errorf("the argument changed to %v", in)
			}
		})
	}
	if got := Normalize([]netip.Prefix{{}, netip.MustParsePrefix("10.0.0.0/8")}); len(got) != 1 {
		t.Errorf("Normalize kept an invalid prefix: %v", got)
	}
}

func TestExclude(t *testing.T) {
	for _, tt := range []struct{ name, from, exclude, want string }{
		{"nothing", "10.0.0.0/16", "", "10.0.0.0/16"},
		{"elsewhere", "10.0.0.0/16", "10.1.0.0/16 fd00::/8", "10.0.0.0/16"},
		{"equal", "10.0.0.0/16", "10.0.0.0/16", ""},
		{"larger", "10.0.0.0/16 10.9.0.0/16", "10.0.0.0/8", ""},
		{"a half", "10.0.0.0/16", "10.0.128.0/17", "10.0.0.0/17"},
		{"a quarter", "10.0.0.0/16", "10.0.64.0/18", "10.0.0.0/18 10.0.128.0/17"},
		{"one address", "10.0.0.0/30", "10.0.0.2/32", "10.0.0.0/31 10.0.0.3/32"},
		{"two in one", "10.0.0.0/29", "10.0.0.0/32 10.0.0.7/32", "10.0.0.1/32 10.0.0.2/31 10.0.0.4/31 10.0.0.6/32"},
		{"IPv6", "fd12::/16", "fd12:8000::/17 fd12::/18", "fd12:4000::/18"},
		{"input not normal", "10.0.0.0/17 10.0.128.0/17 10.0.5.0/24", "10.0.0.0/18", "10.0.64.0/18 10.0.128.0/17"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, want := Exclude(prefixes(tt.from), prefixes(tt.exclude)), prefixes(tt.want); !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

func TestDiff(t *testing.T) {
	for _, tt := range []struct{ before, after, added, removed string }{
		{"", "", "", ""},
		{"10.0.0.0/16", "10.0.0.0/16", "", ""},
		{"", "10.2.0.0/16 10.1.0.0/16 10.2.0.0/16", "10.1.0.0/16 10.2.0.0/16", ""},
		{"10.1.0.0/16 fd00::/48", "10.1.0.0/16", "", "fd00::/48"},
		{"10.0.0.0/17 10.0.128.0/17", "10.0.0.0/16", "10.0.0.0/16", "10.0.0.0/17 10.0.128.0/17"},
	} {
		added, removed := Diff(prefixes(tt.before), prefixes(tt.after))
		if !slices.Equal(added, prefixes(tt.added)) || !slices.Equal(removed, prefixes(tt.removed)) {
			t.Errorf("Diff(%s; %s) = %v, %v", tt.before, tt.after, added, removed)
		}
	}
}

func FuzzNormalize(f *testing.F) {
	for _, seed := range []string{"", "10.0.0.0/17 10.0.128.0/17", "10.1.0.0/16 10.2.0.0/15 10.0.0.0/16", "::/1 8000::/1 0.0.0.0/0", "::ffff:1.2.3.0/120 1.2.2.0/24", "255.255.255.255/32 255.255.255.254/32"} {
		f.Add(encode(prefixes(seed)))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		in := decode(data)
		out := Normalize(in)
		for _, a := range boundaries(in, out) {
			if contains(in, a) != contains(out, a) {
				t.Fatalf("%v: contains %v in %v is %t", a, a, out, contains(out, a))
			}
		}
		checkMinimal(t, out)
		slices.Reverse(in)
		if again := Normalize(in); !slices.Equal(again, out) {
			t.Fatalf("%v in another order gives %v", out, again)
		}
		if again := Normalize(out); !slices.Equal(again, out) {
			t.Fatalf("%v normalizes to %v", out, again)
		}
	})
}

func FuzzExclude(f *testing.F) {
	for _, seed := range [][2]string{{"10.0.0.0/16", "10.0.64.0/18"}, {"0.0.0.0/0 ::/0", "1.2.3.4/32 ffff::1/128"}, {"10.0.0.0/24 10.0.1.0/24", "10.0.0.128/25 10.0.1.0/25"}} {
		f.Add(encode(prefixes(seed[0])), encode(prefixes(seed[1])))
	}
	f.Fuzz(func(t *testing.T, from, without []byte) {
		ps, exclude := decode(from), decode(without)
		out := Exclude(ps, exclude)
		for _, a := range boundaries(ps, exclude, out) {
			if want := contains(ps, a) && !contains(exclude, a); contains(out, a) != want {
				t.Fatalf("%v minus %v = %v: contains %v is %t", ps, exclude, out, a, !want)
			}
		}
		checkMinimal(t, out)
		if again := Normalize(out); !slices.Equal(again, out) {
			t.Fatalf("%v normalizes to %v", out, again)
		}
	})
}

func BenchmarkNormalize5000(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	ps := make([]netip.Prefix, 5000)
	for i := range ps {
		a := netip.AddrFrom4([4]byte{10, byte(rng.Uint32()), byte(rng.Uint32()), byte(rng.Uint32())})
		ps[i] = netip.PrefixFrom(a, 16+rng.IntN(17))
	}
	b.ReportAllocs()
	for b.Loop() {
		Normalize(ps)
	}
}

func checkMinimal(t *testing.T, ps []netip.Prefix) {
	t.Helper()
	for i, p := range ps {
		if p != p.Masked() {
			t.Fatalf("%v is not masked in %v", p, ps)
		}
		if i == 0 {
			continue
		}
		if ps[i-1].Compare(p) >= 0 {
			t.Fatalf("%v is out of order in %v", p, ps)
		}
		if ps[i-1].Overlaps(p) {
			t.Fatalf("%v and %v overlap", ps[i-1], p)
		}
		parent := netip.PrefixFrom(p.Addr(), max(p.Bits()-1, 0)).Masked()
		if ps[i-1].Bits() == p.Bits() && parent.Contains(ps[i-1].Addr()) {
			t.Fatalf("%v and %v are not merged", ps[i-1], p)
		}
	}
}

// contains compares IPv4-mapped addresses as IPv4, as the network does.
func contains(ps []netip.Prefix, a netip.Addr) bool {
	for _, p := range ps {
		p, _ := unmapped(p)
		if p.Contains(a.Unmap()) {
			return true
		}
	}
	return false
}

// boundaries returns the first and last address of each prefix and the addresses next to them.
func boundaries(sets ...[]netip.Prefix) []netip.Addr {
	var out []netip.Addr
	for _, ps := range sets {
		for _, p := range ps {
			first := p.Masked().Addr()
			raw := first.AsSlice()
			for bit := p.Bits(); bit < len(raw)*8; bit++ {
				raw[bit/8] |= 0x80 >> (bit % 8)
			}
			last, _ := netip.AddrFromSlice(raw)
			for _, a := range []netip.Addr{first.Prev(), first, last, last.Next()} {
				if a.IsValid() {
					out = append(out, a)
				}
			}
		}
	}
	return out
}

// encode returns prefixes as fuzzing input: a byte for the family (odd for IPv6), the length,
// the address.
func encode(ps []netip.Prefix) []byte {
	var out []byte
	for _, p := range ps {
		family := byte(0)
		if p.Addr().Is6() {
			family = 1
		}
		out = append(append(out, family, byte(p.Bits())), p.Addr().AsSlice()...)
	}
	return out
}

func decode(data []byte) []netip.Prefix {
	var out []netip.Prefix
	for len(data) >= 2 && len(out) < 50 {
		size := 4
		if data[0]&1 == 1 {
			size = 16
		}
		if len(data) < 2+size {
			break
		}
		a, _ := netip.AddrFromSlice(data[2 : 2+size])
		out = append(out, netip.PrefixFrom(a, int(data[1])%(a.BitLen()+1)))
		data = data[2+size:]
	}
	return out
}
