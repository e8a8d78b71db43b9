package routes

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
)

// MaxSite is the largest 4via6 site that may be advertised. The address has 32 bits for it, but
// Tailscale rejects routes with larger sites (net/netutil.ValidateViaPrefix).
const MaxSite = 0xffff

// A 4via6 address consists of fd7a:115c:a1e0:b1a::/64, the site in 32 bits, and the IPv4
// address (tailscale.com/net/tsaddr.MapVia).
const (
	viaHigh     = 0xfd7a_115c_a1e0_0b1a // the first 64 bits
	viaSiteBits = 96                    // the length of the prefix of one site
)

// Via returns the 4via6 prefix for the IPv4 prefix p at a site.
func Via(site uint32, p netip.Prefix) (netip.Prefix, error) {
	if !p.IsValid() || !p.Addr().Is4() {
		return netip.Prefix{}, fmt.Errorf("mapping %s to 4via6: only IPv4 can be mapped", p)
	}
	if site > MaxSite {
		return netip.Prefix{}, fmt.Errorf("mapping %s to 4via6: site %d is above %d", p, site, MaxSite)
	}
	p = p.Masked()
	v4 := p.Addr().As4()
	var raw [16]byte
	binary.BigEndian.PutUint64(raw[:8], viaHigh)
	binary.BigEndian.PutUint32(raw[8:12], site)
	copy(raw[12:], v4[:])
	return netip.PrefixFrom(netip.AddrFrom16(raw), viaSiteBits+p.Bits()), nil
}

// ViaName returns the MagicDNS name of a's 4via6 address at a site: "10-0-3-4-via-7". Only IPv4
// addresses have one.
func ViaName(site uint32, a netip.Addr) string {
	return fmt.Sprintf("%s-via-%d", strings.ReplaceAll(a.String(), ".", "-"), site)
}

// Unvia returns the site and the IPv4 address in a 4via6 address; ok is false for any other
// address.
func Unvia(a netip.Addr) (site uint32, v4 netip.Addr, ok bool) {
	if !a.Is6() {
		return 0, netip.Addr{}, false
	}
	raw := a.As16()
	if binary.BigEndian.Uint64(raw[:8]) != viaHigh {
		return 0, netip.Addr{}, false
	}
	return binary.BigEndian.Uint32(raw[8:12]), netip.AddrFrom4([4]byte(raw[12:])), true
}

// nat64 is the prefix under which a NAT64 gateway reaches IPv4 (RFC 6052 section 2.1).
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// Inner returns the final destination of a packet to a, as Target does, also if a NAT64 gateway translates the packet on its way.
func Inner(a netip.Addr) netip.Addr {
	a = Target(a).WithZone("")
	if a.Is6() && nat64.Contains(a) {
		b := a.As16()
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	return a
}

// Target returns the final destination of a packet to a: the IPv4 address inside a 4via6 or
// IPv4-mapped one, else a itself.
func Target(a netip.Addr) netip.Addr {
	if _, v4, ok := Unvia(a); ok {
		return v4
	}
	return a.Unmap()
}
