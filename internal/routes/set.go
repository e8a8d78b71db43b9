package routes

import (
	"net/netip"
	"slices"
)

// Normalize returns the fewest prefixes that contain exactly the addresses of ps: masked, none
// inside another, adjacent ones merged if their union is a prefix. They are sorted, IPv4 first,
// so that equal sets give equal results. IPv4-mapped prefixes become IPv4; invalid ones are
// omitted.
func Normalize(ps []netip.Prefix) []netip.Prefix {
	list := sorted(ps)
	out := list[:0]
	for _, p := range list {
		if n := len(out); n > 0 && Covers(out[n-1], p) {
			continue
		}
		out = append(out, p)
		for n := len(out); n > 1; n = len(out) {
			parent, ok := merge(out[n-2], out[n-1])
			if !ok {
				break
			}
			out = append(out[:n-2], parent)
		}
	}
	return out
}

// Exclude returns ps without the addresses of exclude, normalized: a prefix that contains an
// excluded one is split around it.
func Exclude(ps, exclude []netip.Prefix) []netip.Prefix {
	return trim(Normalize(ps), exclude)
}

// Outermost returns the prefixes of ps that are inside no other, without repetitions and in the
// order of [Normalize]. It does not merge adjacent prefixes, because routes are approved by
// their exact prefixes.
func Outermost(ps []netip.Prefix) []netip.Prefix {
	list := sorted(ps)
	out := list[:0]
	for _, p := range list {
		if n := len(out); n == 0 || !Covers(out[n-1], p) {
			out = append(out, p)
		}
	}
	return out
}

// Trim is [Exclude] without merging: it removes only prefixes that are inside others or
// excluded, and splits only those that contain an excluded address.
func Trim(ps, exclude []netip.Prefix) []netip.Prefix {
	return trim(Outermost(ps), exclude)
}

func trim(ps, exclude []netip.Prefix) []netip.Prefix {
	exclude = Normalize(exclude)
	var out []netip.Prefix
	for _, p := range ps {
		out = appendWithout(out, p, exclude)
	}
	return out
}

// Intersect returns the addresses of p that are also in one of ps, without merging adjacent
// prefixes. Of two prefixes that share an address, one contains the other.
func Intersect(p netip.Prefix, ps []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, q := range Outermost(ps) {
		switch {
		case Covers(q, p):
			return Outermost([]netip.Prefix{p})
		case Covers(p, q):
			out = append(out, q)
		}
	}
	return out
}

// sorted returns a copy of ps, masked and without invalid prefixes. A prefix precedes
// everything inside it.
func sorted(ps []netip.Prefix) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(ps))
	for _, p := range ps {
		if p.IsValid() {
			p, _ = unmapped(p)
			out = append(out, p)
		}
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return out
}

// appendWithout appends p minus exclude to out. It splits a half only if an exclusion lies
// inside it, so that the pieces are as few as possible.
func appendWithout(out []netip.Prefix, p netip.Prefix, exclude []netip.Prefix) []netip.Prefix {
	var inside []netip.Prefix
	for _, e := range exclude {
		if Covers(e, p) {
			return out
		}
		if Covers(p, e) {
			inside = append(inside, e)
		}
	}
	if len(inside) == 0 {
		return append(out, p)
	}
	low, high := halves(p)
	return appendWithout(appendWithout(out, low, inside), high, inside)
}

// Diff compares two sets by prefix, not by address: control approves prefixes, so a /16 that
// replaces two /17 is one added and two removed. The results are sorted.
func Diff(before, after []netip.Prefix) (added, removed []netip.Prefix) {
	return missing(before, after), missing(after, before)
}

// missing returns the prefixes of ps that are not in from, sorted and without repetitions.
func missing(from, ps []netip.Prefix) []netip.Prefix {
	known := make(map[netip.Prefix]bool, len(from))
	for _, p := range from {
		known[p] = true
	}
	var out []netip.Prefix
	for _, p := range ps {
		if !known[p] {
			known[p] = true
			out = append(out, p)
		}
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return out
}

// Covers reports whether every address of inner is in outer.
func Covers(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

// Strings returns ps as text, for logs and messages.
func Strings(ps []netip.Prefix) []string {
	out := make([]string, len(ps))
	for i, p := range ps {
		out[i] = p.String()
	}
	return out
}

// merge returns the prefix whose two halves are a and b, which are masked and sorted. It
// returns false if there is none.
func merge(a, b netip.Prefix) (netip.Prefix, bool) {
	if a.Bits() != b.Bits() || a.Bits() == 0 || a == b {
		return netip.Prefix{}, false
	}
	parent := netip.PrefixFrom(a.Addr(), a.Bits()-1).Masked()
	return parent, parent.Contains(b.Addr())
}

// halves splits p, which must contain more than one address.
func halves(p netip.Prefix) (low, high netip.Prefix) {
	bits := p.Bits()
	raw := p.Addr().AsSlice()
	raw[bits/8] |= 0x80 >> (bits % 8)
	upper, _ := netip.AddrFromSlice(raw)
	return netip.PrefixFrom(p.Addr(), bits+1), netip.PrefixFrom(upper, bits+1)
}
