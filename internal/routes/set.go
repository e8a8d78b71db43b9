package routes

import (
	"net/netip"
	"slices"
)

// Normalize returns the fewest prefixes that hold exactly the addresses of ps:
// masked, none inside another, neighbours merged where the sum is one prefix.
// IPv4 comes first, then the order of addresses, so equal sets give equal
// results. IPv4-mapped prefixes become IPv4; invalid ones are left out.
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

// Exclude returns ps without the addresses of exclude, normalized: a prefix
// that holds an excluded one is split around it.
func Exclude(ps, exclude []netip.Prefix) []netip.Prefix {
	return trim(Normalize(ps), exclude)
}

// Outermost returns the prefixes of ps that lie in no other, each once and in
// the order of [Normalize]. Neighbours stay apart, as whoever approves routes
// by name knows them.
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

// Trim is [Exclude] for prefixes that keep their names: only what is inside
// another goes, only what holds an excluded address is split.
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

// Intersect returns the addresses of p that are also in one of ps, neighbours
// apart. Of two prefixes that share an address, one holds the other.
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

// sorted returns a copy of ps, masked, without invalid prefixes, a prefix before
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

// appendWithout appends p minus exclude to out. A half is only cut where an
// exclusion reaches into it, so the pieces are already as few as can be.
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

// Diff compares two sets prefix by prefix, not address by address: control
// approves prefixes, so a /16 in place of two /17 is one added and two removed.
// The results are sorted.
func Diff(before, after []netip.Prefix) (added, removed []netip.Prefix) {
	return missing(before, after), missing(after, before)
}

// missing returns the prefixes of ps that are not in from, sorted, each once.
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

// Strings is ps as text, for logs and messages.
func Strings(ps []netip.Prefix) []string {
	out := make([]string, len(ps))
	for i, p := range ps {
		out[i] = p.String()
	}
	return out
}

// merge returns the prefix whose two halves are a and b, masked and in order.
func merge(a, b netip.Prefix) (netip.Prefix, bool) {
	if a.Bits() != b.Bits() || a.Bits() == 0 || a == b {
		return netip.Prefix{}, false
	}
	parent := netip.PrefixFrom(a.Addr(), a.Bits()-1).Masked()
	return parent, parent.Contains(b.Addr())
}

// halves splits p, which must be longer than one address.
func halves(p netip.Prefix) (low, high netip.Prefix) {
	bits := p.Bits()
	raw := p.Addr().AsSlice()
	raw[bits/8] |= 0x80 >> (bits % 8)
	upper, _ := netip.AddrFromSlice(raw)
	return netip.PrefixFrom(p.Addr(), bits+1), netip.PrefixFrom(upper, bits+1)
}
