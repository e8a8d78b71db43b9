package dns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/miekg/dns"
)

const (
	maxTTL         = 24 * time.Hour // of an answer with records
	maxNegativeTTL = time.Hour      // of NXDOMAIN and of an answer without records
	maxText        = 64             // bytes of the resolver's text of an extended error
)

var (
	staleAnswer    = &extended{code: dns.ExtendedErrorCodeStaleAnswer}
	staleNameError = &extended{code: dns.ExtendedErrorCodeStaleNXDOMAINAnswer}
)

// answer is a response in wire format, which [query.render] adapts to each client. It is immutable.
type answer struct {
	wire     []byte   // without OPT; with the ID 0 and the name in lower case
	ttls     []uint16 // the offset of each TTL in wire
	lifetime time.Duration
	info     *extended
}

func (a *answer) rcode() int { return int(a.wire[3] & maskRcode) }

// unusable is the answer to clients if the resolver's makes no sense.
var unusable = &refusal{rcode: dns.RcodeServerFailure, result: failed, info: &extended{dns.ExtendedErrorCodeInvalidData, "the resolver's answer is malformed"}}

// newAnswer returns m, a response of the resolver that has passed [upstream.exchange] and the changes
// of via.go, in wire format. k is the client's question. atMost bounds the lifetime of the answer if m
// was changed; see [via.change]. newAnswer changes m.
func newAnswer(m *dns.Msg, k key, atMost time.Duration) (*answer, error) {
	info := dropEDNS(m)
	lifetime := min(boundTTLs(m, k.qtype, atMost != unchanged), atMost)
	m.Question = []dns.Question{{Name: k.name, Qtype: k.qtype, Qclass: dns.ClassINET}}
	// RD and CD are the client's. The answer is not authoritative, since it comes from a cache.
	m.MsgHdr = dns.MsgHdr{Response: true, RecursionAvailable: true, Rcode: m.Rcode & maskRcode, AuthenticatedData: m.AuthenticatedData}
	m.Compress = true
	wire, ttls, err := write(m)
	if err != nil {
		return nil, &refusalError{unusable, "writing an answer: " + err.Error()}
	}
	return &answer{wire: wire, ttls: ttls, lifetime: lifetime, info: info}, nil
}

// write returns m in wire format, and the offsets of its TTLs. The library returns no offsets, but two
// messages that differ only in their TTLs show where those are. write changes the
// TTLs of m.
func write(m *dns.Msg) (wire []byte, ttls []uint16, err error) {
	records := allRecords(m)
	if len(records) >= math.MaxUint16 {
		return nil, nil, errors.New("too many records for one more, of EDNS")
	}
	wire, err = m.Pack()
	if err != nil {
		return nil, nil, err
	}
	// The library reads records without data, and writes malformed ones.
	check := new(dns.Msg)
	if err := check.Unpack(wire); err != nil {
		return nil, nil, err
	}
	if len(wire) > maxTCP || len(check.Answer) != len(m.Answer) || len(check.Ns) != len(m.Ns) || len(check.Extra) != len(m.Extra) {
		return nil, nil, fmt.Errorf("%d bytes have too many records", len(wire))
	}
	for _, r := range records {
		r.Header().Ttl = ^r.Header().Ttl
	}
	other, err := m.Pack()
	if err != nil {
		return nil, nil, err
	}
	// A TTL and its complement differ in each byte, and something else is between two of them.
	for i := 0; i < min(len(wire), len(other)); i++ {
		if wire[i] != other[i] {
			ttls = append(ttls, uint16(i))
			i += 3
		}
	}
	if len(ttls) != len(records) || len(wire) != len(other) {
		return nil, nil, fmt.Errorf("%d records have %d TTLs", len(records), len(ttls))
	}
	return wire, ttls, nil
}

// failureAnswer returns the answer that reports a failure or refusal for a while.
func failureAnswer(k key, r *refusal) *answer {
	m := dns.Msg{Response: true, RecursionAvailable: true, Rcode: r.rcode}
	m.Question = []dns.Question{{Name: k.name, Qtype: k.qtype, Qclass: dns.ClassINET}}
	wire, err := m.Pack()
	if err != nil {
		panic(fmt.Sprintf("dns: writing the question %q, which was read before: %v", k.name, err))
	}
	a := &answer{wire: wire, lifetime: failureTTL, info: r.info}
	if r.result == refused {
		a.lifetime = recheckAfter
	}
	return a
}

// setTTLs writes the TTLs that are left into b, which begins with a copy of a.wire.
func (a *answer) setTTLs(b []byte, age time.Duration, stale bool) {
	elapsed := uint32(age / time.Second)
	for _, off := range a.ttls {
		ttl := binary.BigEndian.Uint32(b[off:])
		ttl -= min(ttl, elapsed)
		if stale {
			ttl = uint32(staleTTL / time.Second)
		}
		binary.BigEndian.PutUint32(b[off:], ttl)
	}
}

// allRecords returns the records of m in the order of the wire.
func allRecords(m *dns.Msg) []dns.RR {
	out := make([]dns.RR, 0, len(m.Answer)+len(m.Ns)+len(m.Extra))
	return append(append(append(out, m.Answer...), m.Ns...), m.Extra...)
}

// dropEDNS removes the records that concern only the exchange with the resolver, and returns its
// extended error.
func dropEDNS(m *dns.Msg) (info *extended) {
	extra := m.Extra[:0:0]
	for _, r := range m.Extra {
		switch r := r.(type) {
		case *dns.OPT:
			for _, o := range r.Option {
				if e, ok := o.(*dns.EDNS0_EDE); ok && info == nil {
					info = &extended{e.InfoCode, e.ExtraText[:min(len(e.ExtraText), maxText)]}
				}
			}
		case *dns.TSIG, *dns.SIG:
		default:
			extra = append(extra, r)
		}
	}
	m.Extra = extra
	return info
}

// boundTTLs caps the TTLs of m and returns its lifetime: the least TTL, also that of the SOA record of
// a negative answer, as RFC 2308 derives it. The result is 0 if m must not be cached, such as a negative
// answer without a SOA record; with noSOA, it needs none. A TTL of 2^31 or more is a large one (RFC
// 8767, section 4).
func boundTTLs(m *dns.Msg, qtype uint16, noSOA bool) time.Duration {
	limit := uint32(maxTTL / time.Second)
	negative := m.Rcode != dns.RcodeSuccess || !hasType(m.Answer, qtype)
	bounded := !negative || noSOA
	if negative {
		limit = uint32(maxNegativeTTL / time.Second)
	}
	for _, r := range m.Ns {
		if soa, ok := r.(*dns.SOA); ok && negative {
			soa.Hdr.Ttl = min(soa.Hdr.Ttl, soa.Minttl)
			bounded = true
		}
	}
	least := limit
	for _, r := range allRecords(m) {
		h := r.Header()
		if h.Rrtype == dns.TypeOPT { // whose TTL is none
			continue
		}
		h.Ttl = min(h.Ttl, limit)
		least = min(least, h.Ttl)
	}
	if !bounded {
		return 0
	}
	return time.Duration(least) * time.Second
}

func hasType(records []dns.RR, qtype uint16) bool {
	for _, r := range records {
		if r.Header().Rrtype == qtype {
			return true
		}
	}
	return false
}
