package dns

import (
	"math"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"subnetrouter/internal/routes"
)

// unchanged is the lifetime of a message that was not changed: its own.
const unchanged = time.Duration(math.MaxInt64)

// resolve asks the resolver the questions behind k and returns the answer for clients.
//
// With a site, IPv4 addresses inside the routes are of this VPC only by their 4via6 address, since
// another VPC has the same ones. A question for A records has them removed, one for AAAA records has
// them added in this form, and the reverse name of a 4via6 address is that of the IPv4 address. A client
// that validates DNSSEC itself (DO and CD) gets everything as it is (RFC 6147, section 5.5).
func (s *Server) resolve(k key, f *facts) (*answer, error) {
	if s.cfg.Site == nil || k.do && k.cd {
		m, err := s.ask(k, f)
		if err != nil {
			return nil, err
		}
		return newAnswer(m, k, unchanged)
	}
	v := &via{site: *s.cfg.Site, facts: f}
	if k.qtype == dns.TypeAAAA {
		return s.resolveAAAA(k, v)
	}
	asked := k
	if name := v.reverse(k.name); name != "" {
		asked.name = name
	}
	m, err := s.ask(asked, f)
	if err != nil {
		return nil, err
	}
	atMost := v.change(m)
	if asked.name != k.name {
		atMost = min(atMost, rename(m, asked, k.name))
	}
	return newAnswer(m, k, atMost)
}

// resolveAAAA combines the AAAA records of a name with its A records. A failure of one question does
// not matter if the other has addresses.
func (s *Server) resolveAAAA(k key, v *via) (*answer, error) {
	type outcome struct {
		m   *dns.Msg
		err error
	}
	asA := k
	asA.qtype = dns.TypeA
	forA := make(chan outcome, 1)
	go func() {
		m, err := s.ask(asA, v.facts)
		forA <- outcome{m, err}
	}()
	m, err := s.ask(k, v.facts)
	a := <-forA

	var mapped []dns.RR
	if a.err == nil {
		mapped = v.map4(a.m.Answer)
	}
	switch {
	case mapped == nil && err != nil:
		return nil, err
	case mapped == nil && a.err != nil && !hasType(m.Answer, dns.TypeAAAA):
		return nil, a.err // the name may have a 4via6 address
	case mapped == nil:
		out, err := newAnswer(m, k, v.change(m))
		if err == nil && a.err == nil { // the name may get a 4via6 address when this ends
			out.lifetime = min(out.lifetime, boundTTLs(a.m, asA.qtype, false))
		}
		return out, err
	case err != nil || !hasType(m.Answer, dns.TypeAAAA):
		atMost := least(a.m)
		if err == nil { // the name may get AAAA records when this ends
			atMost = min(atMost, boundTTLs(m, k.qtype, true))
		}
		a.m.Answer, a.m.AuthenticatedData = mapped, false
		return newAnswer(a.m, k, min(atMost, v.change(a.m)))
	}
	atMost := min(least(m), least(a.m), v.change(m))
	for _, r := range mapped {
		if r.Header().Rrtype == dns.TypeAAAA {
			m.Answer = append(m.Answer, r)
		}
	}
	m.AuthenticatedData = false
	return newAnswer(m, k, atMost)
}

// ask returns the resolver's answer, as a copy, if the guard lets it pass.
func (s *Server) ask(k key, f *facts) (*dns.Msg, error) {
	m, err := s.upstream.ask(k)
	if err != nil {
		return nil, err
	}
	m = m.Copy()
	return m, s.guard(m, k.name, f)
}

// via maps the addresses of one site.
type via struct {
	site  uint32
	facts *facts
}

// mapped returns the 4via6 address of an IPv4 address inside the routes.
func (v *via) mapped(ip []byte) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(ip)
	if a = a.Unmap(); !ok || !a.Is4() || !v.facts.routed(a) {
		return netip.Addr{}, false
	}
	p, err := routes.Via(v.site, netip.PrefixFrom(a, a.BitLen()))
	return p.Addr(), err == nil
}

// aaaa returns the AAAA record for an A record inside the routes; nil for others.
func (v *via) aaaa(r dns.RR) dns.RR {
	a, ok := r.(*dns.A)
	if !ok {
		return nil
	}
	to, ok := v.mapped(a.A)
	if !ok {
		return nil
	}
	h := a.Hdr
	h.Rrtype = dns.TypeAAAA
	return &dns.AAAA{Hdr: h, AAAA: to.AsSlice()}
}

// map4 returns the records of an answer to a question for A records, as one to the same question for
// AAAA records: aliases, and the addresses inside the routes. It returns nil if there are none.
func (v *via) map4(answer []dns.RR) []dns.RR {
	var out []dns.RR
	found := false
	for _, r := range answer {
		switch r.(type) {
		case *dns.A:
			if r = v.aaaa(r); r == nil {
				continue
			}
			found = true
		case *dns.CNAME, *dns.DNAME:
		default:
			continue
		}
		out = append(out, r)
	}
	if !found {
		return nil
	}
	return out
}

// change removes the IPv4 addresses inside the routes from the answers of m, and maps them in its
// additional records and hints. It returns the lifetime of the result, or unchanged.
func (v *via) change(m *dns.Msg) time.Duration {
	atMost := least(m)
	changed := false
	inside := func(r dns.RR) bool { return v.aaaa(r) != nil }
	if slices.ContainsFunc(m.Answer, inside) {
		changed = true
		m.Answer = slices.DeleteFunc(m.Answer, func(r dns.RR) bool {
			sig, ok := r.(*dns.RRSIG)
			return inside(r) || ok && sig.TypeCovered == dns.TypeA
		})
	}
	for i, r := range m.Extra {
		if to := v.aaaa(r); to != nil {
			m.Extra[i] = to
			changed = true
		}
	}
	for _, r := range allRecords(m) {
		if svcb := asSVCB(r); svcb != nil && v.changeHints(svcb) {
			changed = true
		}
	}
	if !changed {
		return unchanged
	}
	m.AuthenticatedData = false
	return atMost
}

// changeHints moves the hints inside the routes from ipv4hint to ipv6hint.
func (v *via) changeHints(r *dns.SVCB) bool {
	i := slices.IndexFunc(r.Value, func(p dns.SVCBKeyValue) bool { return p.Key() == dns.SVCB_IPV4HINT })
	if i < 0 {
		return false
	}
	four, ok := r.Value[i].(*dns.SVCBIPv4Hint)
	if !ok {
		return false
	}
	six := new(dns.SVCBIPv6Hint)
	four.Hint = slices.DeleteFunc(four.Hint, func(ip net.IP) bool {
		to, ok := v.mapped(ip)
		if ok {
			six.Hint = append(six.Hint, to.AsSlice())
		}
		return ok
	})
	if six.Hint == nil {
		return false
	}
	j := slices.IndexFunc(r.Value, func(p dns.SVCBKeyValue) bool { return p.Key() == dns.SVCB_IPV6HINT })
	if j >= 0 {
		if old, ok := r.Value[j].(*dns.SVCBIPv6Hint); ok {
			six.Hint = append(old.Hint, six.Hint...)
		}
		r.Value[j] = six
	} else {
		r.Value = append(r.Value, six)
	}
	if len(four.Hint) == 0 {
		r.Value = slices.Delete(r.Value, i, i+1)
		for _, p := range r.Value { // a mandatory parameter must be there
			if must, ok := p.(*dns.SVCBMandatory); ok && slices.Contains(must.Code, dns.SVCB_IPV4HINT) {
				must.Code = slices.DeleteFunc(must.Code, func(c dns.SVCBKey) bool { return c == dns.SVCB_IPV4HINT || c == dns.SVCB_IPV6HINT })
				must.Code = append(must.Code, dns.SVCB_IPV6HINT)
			}
		}
	}
	return true
}

const (
	reverse4 = "in-addr.arpa."
	reverse6 = "ip6.arpa."
)

// reverse returns the reverse name of the IPv4 address whose 4via6 address has the reverse name given,
// if it is of this site and inside the routes; else "".
func (v *via) reverse(name string) string {
	digits, ok := strings.CutSuffix(name, "."+reverse6)
	if !ok || len(digits) != 63 {
		return ""
	}
	var raw [16]byte
	for i := range 32 {
		if i > 0 && digits[2*i-1] != '.' {
			return ""
		}
		d := strings.IndexByte("0123456789abcdef", digits[2*i])
		if d < 0 {
			return ""
		}
		at := 31 - i // the first digit is the lowest
		raw[at/2] |= byte(d) << (4 * (1 - at%2))
	}
	site, a, ok := routes.Unvia(netip.AddrFrom16(raw))
	if !ok || site != v.site || !v.facts.routed(a) {
		return ""
	}
	out, err := dns.ReverseAddr(a.String())
	if err != nil {
		return ""
	}
	return out
}

// rename makes the answer for one reverse name that for another. A zone's SOA record, which is not of
// the other name's zone, leaves; the result is the lifetime that it gave.
func rename(m *dns.Msg, from key, to string) time.Duration {
	atMost := boundTTLs(m, from.qtype, false)
	for _, r := range m.Answer {
		if strings.EqualFold(r.Header().Name, from.name) {
			r.Header().Name = to
		}
	}
	m.Ns, m.Extra = nil, nil
	m.AuthenticatedData = false
	return atMost
}

// least returns the least TTL of a message that is going to change, for the result.
func least(m *dns.Msg) time.Duration {
	out := uint32(maxNegativeTTL / time.Second)
	for _, r := range allRecords(m) {
		if r.Header().Rrtype != dns.TypeOPT {
			out = min(out, r.Header().Ttl)
		}
	}
	return time.Duration(out) * time.Second
}
