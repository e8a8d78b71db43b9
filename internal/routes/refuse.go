package routes

import (
	"fmt"
	"net/netip"
)

// Refusal is the error of [Refuse].
type Refusal struct {
	Prefix netip.Prefix
	Reason string // a clause to follow "never advertised: "
}

func (r Refusal) Error() string {
	return fmt.Sprintf("%s is never advertised: %s", r.Prefix, r.Reason)
}

const defaultRoute = "a default route is for exit nodes: set ROUTER_EXIT_NODE=on for that role"

var (
	// Clients treat these addresses as nodes of the tailnet, and drop packets that a subnet
	// route would send there (tailscale.com/net/tsaddr.CGNATRange).
	cgnat = refusal("100.64.0.0/10", "Tailscale's own addresses, so clients would drop it; reach a VPC in this range by 4via6 or not at all")

	tailnet6 = refusal("fd7a:115c:a1e0::/48", "Tailscale's own addresses")

	refusals = []Refusal{
		refusal("169.254.0.0/16", "link-local, where ECS and EC2 serve credentials and metadata"),
		refusal("fd00:ec2::/32", "where EC2 serves metadata, with credentials, over IPv6"),
		refusal("fe80::/10", "link-local"),
		refusal("127.0.0.0/8", "loopback"),
		refusal("::1/128", "loopback"),
		refusal("224.0.0.0/4", "multicast"),
		refusal("ff00::/8", "multicast"),
		refusal("255.255.255.255/32", "broadcast"),
		refusal("0.0.0.0/8", "not a destination (RFC 1122: this network)"),
		refusal("::/128", "not a destination (the unspecified address)"),
		refusal("::ffff:0:0/96", "IPv4 written as IPv6"),
	}
)

func refusal(prefix, reason string) Refusal {
	return Refusal{Prefix: netip.MustParsePrefix(prefix), Reason: reason}
}

// Refuse returns a [Refusal] if p must never be advertised, else nil.
//
// It refuses default routes, and prefixes inside a range that no VPC routes or that gives
// access to the task itself, including their 4via6 forms. A larger prefix that contains such a
// range is allowed; [Denied] stops the packets. Callers must check the prefixes that they
// finally advertise, because [Normalize] can merge two allowed halves into a default route.
func Refuse(p netip.Prefix) error {
	if !p.IsValid() {
		return Refusal{p, "not a prefix"}
	}
	p = p.Masked()
	if reason := refuse(p); reason != "" {
		return Refusal{p, reason}
	}
	return nil
}

func refuse(p netip.Prefix) string {
	if _, v4, ok := Unvia(p.Addr()); ok && p.Bits() >= 64 {
		return refuseVia(p, v4)
	}
	for _, r := range []Refusal{cgnat, tailnet6} {
		if Covers(r.Prefix, p) {
			return r.Reason
		}
	}
	return refuseEmbeddable(p)
}

// refuseVia returns the reason to refuse a 4via6 prefix, or "". It allows 100.64.0.0/10,
// because clients see the 4via6 address.
func refuseVia(p netip.Prefix, v4 netip.Addr) string {
	if p.Bits() < viaSiteBits {
		return "it spans several 4via6 sites"
	}
	if site, _, _ := Unvia(p.Addr()); site > MaxSite {
		return fmt.Sprintf("Tailscale rejects 4via6 sites above %d", MaxSite)
	}
	inner := netip.PrefixFrom(v4, p.Bits()-viaSiteBits)
	if reason := refuseEmbeddable(inner); reason != "" {
		return fmt.Sprintf("4via6 for %s: %s", inner, reason)
	}
	return ""
}

// refuseEmbeddable returns the reason to refuse p in plain form as well as inside 4via6, or "".
func refuseEmbeddable(p netip.Prefix) string {
	if p.Bits() == 0 {
		return defaultRoute
	}
	for _, r := range refusals {
		if Covers(r.Prefix, p) {
			return r.Reason
		}
	}
	return ""
}

// Holes returns the ranges inside p to which no packet is forwarded although p may be
// advertised, each with the reason.
func Holes(p netip.Prefix) (holes []Refusal) {
	if !p.IsValid() || Refuse(p) != nil {
		return nil
	}
	p = p.Masked()
	if site, v4, ok := Unvia(p.Addr()); ok && p.Bits() >= viaSiteBits {
		for _, r := range refusals {
			if r.Prefix.Addr().Is4() && Covers(netip.PrefixFrom(v4, p.Bits()-viaSiteBits), r.Prefix) {
				via, _ := Via(site, r.Prefix)
				holes = append(holes, Refusal{via, r.Reason})
			}
		}
		return holes
	}
	for _, r := range append([]Refusal{cgnat, tailnet6}, refusals...) {
		if Covers(p, r.Prefix) {
			holes = append(holes, r)
		}
	}
	return holes
}

// Denied reports whether packets to a must never be forwarded, whatever routes are advertised.
// It looks inside 4via6 and IPv4-mapped addresses. The reason is one of "link-local",
// "ec2-metadata", "loopback", "multicast", "broadcast", "unspecified" and "invalid". It is
// called for every flow and does not allocate.
func Denied(a netip.Addr) (reason string, denied bool) {
	a = Target(a)
	switch {
	case a.Is4():
		b := a.As4()
		switch {
		case b[0] == 169 && b[1] == 254:
			return "link-local", true
		case b[0] == 127:
			return "loopback", true
		case b[0]&0xf0 == 224:
			return "multicast", true
		case b == [4]byte{255, 255, 255, 255}:
			return "broadcast", true
		case b[0] == 0: // Linux connects 0.0.0.0 to this host
			return "unspecified", true
		}
	case a.Is6():
		b := a.As16()
		switch {
		case b[0] == 0xfd && b[1] == 0x00 && b[2] == 0x0e && b[3] == 0xc2:
			return "ec2-metadata", true
		case b[0] == 0xfe && b[1]&0xc0 == 0x80:
			return "link-local", true
		case b[0] == 0xff:
			return "multicast", true
		case b == [16]byte{15: 1}:
			return "loopback", true
		case b == [16]byte{}:
			return "unspecified", true
		}
	default:
		return "invalid", true
	}
	return "", false
}
