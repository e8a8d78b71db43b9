package routes

import (
	"fmt"
	"net/netip"
)

// ParsePrefix parses a CIDR. If bits after the prefix length are set, the error names the CIDR
// to write instead: it could be the length or the address that is mistyped, and a guess might
// advertise the wrong network.
func ParsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
			a = a.Unmap()
			return netip.Prefix{}, fmt.Errorf("%q has no length: write %s for this one address", s, netip.PrefixFrom(a, a.BitLen()))
		}
		return netip.Prefix{}, fmt.Errorf("%q is not a CIDR: write one such as 10.0.0.0/16 or fd12:3456::/48", s)
	}
	if plain, mapped := unmapped(p); mapped {
		return netip.Prefix{}, fmt.Errorf("%q is IPv4 written as IPv6: write %s", s, plain)
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%q has host bits set: write %s", s, p.Masked())
	}
	return p, nil
}

// ParsePrefixes parses a comma-separated list of CIDRs, and returns them in order without
// repetitions. The error joins one error per invalid element.
func ParsePrefixes(list string) ([]netip.Prefix, error) {
	return ParseList(list, "CIDRs such as 10.0.0.0/16", ParsePrefix)
}

// unmapped returns p masked. A prefix in ::ffff:0:0/96 becomes the IPv4 prefix that it
// contains.
func unmapped(p netip.Prefix) (plain netip.Prefix, mapped bool) {
	p = p.Masked()
	if p.Bits() < 96 || !p.Addr().Is4In6() {
		return p, false
	}
	return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96), true
}
