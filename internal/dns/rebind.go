package dns

import (
	"net/netip"

	"github.com/miekg/dns"
)

// guarded lists the addresses that a name outside the private zones must not have. With DNS rebinding, a
// web page whose own name leads there makes the client's browser attack the client's machine, or a node of
// the tailnet. RFC 1918 is not in the list: services of the VPC have such addresses also under public names
// (RDS, endpoints).
var guarded = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"), // the tailnet
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("::/127"), // unspecified and loopback
	netip.MustParsePrefix("fd7a:115c:a1e0::/48"),
	netip.MustParsePrefix("fe80::/10"),
}

// rebound is the answer instead of one that the guard refuses.
var rebound = &refusal{rcode: dns.RcodeRefused, result: refused,
	info: &extended{dns.ExtendedErrorCodeBlocked, "the name leads into the tailnet or to this machine; if it is meant to, add its zone to ROUTER_DNS_ZONES"}}

// guard returns an error if a message about name has an address that must not reach clients. Addresses
// on the data path's deny list are no concern of it: a flow to them is denied, whatever its name.
func (s *Server) guard(m *dns.Msg, name string, f *facts) error {
	if !s.cfg.RebindGuard || f.zones.find(name).private {
		return nil
	}
	for _, r := range allRecords(m) {
		for a := range addresses(r) {
			if a = a.Unmap(); !f.routed(a) && (within(guarded, a) || s.cfg.Listener(a)) {
				return &refusalError{rebound, "the answer has a guarded address"}
			}
		}
	}
	return nil
}

func within(ps []netip.Prefix, a netip.Addr) bool {
	for _, p := range ps {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// addresses returns the addresses in a record: of A and AAAA, and the hints of SVCB and HTTPS.
func addresses(r dns.RR) func(yield func(netip.Addr) bool) {
	return func(yield func(netip.Addr) bool) {
		var ips [][]byte
		switch r := r.(type) {
		case *dns.A:
			ips = append(ips, r.A)
		case *dns.AAAA:
			ips = append(ips, r.AAAA)
		}
		if svcb := asSVCB(r); svcb != nil {
			for _, v := range svcb.Value {
				switch v := v.(type) {
				case *dns.SVCBIPv4Hint:
					for _, ip := range v.Hint {
						ips = append(ips, ip)
					}
				case *dns.SVCBIPv6Hint:
					for _, ip := range v.Hint {
						ips = append(ips, ip)
					}
				}
			}
		}
		for _, ip := range ips {
			if a, ok := netip.AddrFromSlice(ip); ok && !yield(a) {
				return
			}
		}
	}
}

// asSVCB returns the common part of SVCB and HTTPS records; nil for others.
func asSVCB(r dns.RR) *dns.SVCB {
	switch r := r.(type) {
	case *dns.SVCB:
		return r
	case *dns.HTTPS:
		return &r.SVCB
	}
	return nil
}
