package dns

import (
	"encoding/binary"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	headerSize = 12
	minUDPSize = 512 // without EDNS (RFC 1035)
	// ednsSize is the UDP payload that this server announces and the most that it sends: a packet
	// of 1,280 bytes, which the tailnet carries without fragments.
	ednsSize = 1232
	maxTCP   = 1<<16 - 1
)

// The bits of a header's flags (RFC 1035, 4035).
const (
	flagQR     = 1 << 15
	flagTC     = 1 << 9
	flagRD     = 1 << 8
	flagRA     = 1 << 7
	flagAD     = 1 << 5
	flagCD     = 1 << 4
	maskOpcode = 0xf << 11
	maskRcode  = 0xf
)

// key identifies a question. Answers with and without DNSSEC records differ, as do checked and
// unchecked ones, so the DO and CD bits are part of it. The class is always IN.
type key struct {
	name   string // in lower case, fully qualified, escaped as package dns of miekg does
	qtype  uint16
	do, cd bool
}

// query is a client's query.
type query struct {
	key      key
	id       uint16
	flags    uint16 // of the header that was received
	question []byte // as the client wrote it; nil if it is not known
	tcp      bool
	edns, ad bool
	size     int // of the largest answer
	zone     *zone
}

// extended is an extended DNS error (RFC 8914).
type extended struct {
	code uint16
	text string
}

// refusal is an answer without records.
type refusal struct {
	rcode  int
	info   *extended
	result result
	silent bool // nothing is sent
	hinfo  bool // the answer of RFC 8482 to ANY
}

// The refusals. Each client that sent EDNS gets the reason.
var (
	ignored        = &refusal{silent: true, result: invalid}
	malformed      = &refusal{rcode: dns.RcodeFormatError, result: invalid}
	notImplemented = &refusal{rcode: dns.RcodeNotImplemented, result: invalid}
	badVersion     = &refusal{rcode: dns.RcodeBadVers, result: invalid}
	minimalAny     = &refusal{rcode: dns.RcodeSuccess, hinfo: true, result: hit}
	noTransfer     = &refusal{rcode: dns.RcodeRefused, result: refused, info: &extended{dns.ExtendedErrorCodeNotSupported, "zone transfer"}}
	otherClass     = &refusal{rcode: dns.RcodeRefused, result: refused, info: &extended{dns.ExtendedErrorCodeNotSupported, "class"}}
	notRecursive   = &refusal{rcode: dns.RcodeRefused, result: refused, info: &extended{dns.ExtendedErrorCodeNotAuthoritative, "recursion not desired"}}
	tooManyQueries = &refusal{rcode: dns.RcodeRefused, result: refused, info: &extended{dns.ExtendedErrorCodeProhibited, "this node sends too many queries"}}
	overloaded     = &refusal{rcode: dns.RcodeServerFailure, result: failed, info: &extended{dns.ExtendedErrorCodeOther, "the router is at its limit of queries"}}
	shuttingDown   = &refusal{rcode: dns.RcodeServerFailure, result: failed, info: &extended{dns.ExtendedErrorCodeNotReady, "the router is shutting down"}}
)

// checkQuery reads a message from a client. The query has all that could be read, which a
// refusal needs.
func checkQuery(msg []byte, tcp bool) (q query, _ *refusal) {
	q.tcp, q.size = tcp, minUDPSize
	if tcp {
		q.size = maxTCP
	}
	if len(msg) < headerSize {
		return q, ignored
	}
	q.id, q.flags = binary.BigEndian.Uint16(msg), binary.BigEndian.Uint16(msg[2:])
	switch {
	case q.flags&flagQR != 0: // an answer to it could begin a loop
		return q, ignored
	case q.flags&maskOpcode != dns.OpcodeQuery:
		return q, notImplemented
	}
	// A bound on the records also bounds the work. A query of IXFR has a SOA record.
	questions, answers := binary.BigEndian.Uint16(msg[4:]), binary.BigEndian.Uint16(msg[6:])
	authorities, additionals := binary.BigEndian.Uint16(msg[8:]), binary.BigEndian.Uint16(msg[10:])
	if questions != 1 || answers != 0 || authorities > 1 || additionals > 2 {
		return q, malformed
	}
	var m dns.Msg
	if err := m.Unpack(msg); err != nil || len(m.Question) != 1 {
		return q, malformed
	}
	// The library takes fewer records than announced for a complete message.
	if len(m.Ns) != int(authorities) || len(m.Extra) != int(additionals) {
		return q, malformed
	}
	asked := m.Question[0]
	_, end, err := dns.UnpackDomainName(msg, headerSize)
	switch {
	case err != nil || end+4 > len(msg): // the library takes a name without type and class for a question
		return q, malformed
	case end-headerSize != nameLength(asked.Name): // a name that points elsewhere
		return q, malformed
	}
	q.question = msg[headerSize : end+4]
	q.key = key{name: dns.CanonicalName(asked.Name), qtype: asked.Qtype, cd: m.CheckingDisabled}
	q.ad = m.AuthenticatedData
	for _, r := range m.Extra {
		opt, ok := r.(*dns.OPT)
		if !ok || q.edns || opt.Hdr.Name != "." {
			return q, malformed
		}
		q.edns = true
		q.key.do = opt.Do()
		if !tcp {
			q.size = min(max(int(opt.UDPSize()), minUDPSize), ednsSize)
		}
		if opt.Version() != 0 {
			return q, badVersion
		}
	}
	return q, q.check(asked.Qclass, len(m.Ns))
}

// check refuses questions that this server does not ask the resolver.
func (q *query) check(class uint16, authorities int) *refusal {
	switch t := q.key.qtype; {
	case t == dns.TypeAXFR || t == dns.TypeIXFR:
		return noTransfer
	case authorities != 0 || t == dns.TypeNone || t == dns.TypeOPT || t == dns.TypeReserved:
		return malformed
	case class != dns.ClassINET:
		return otherClass
	case t == dns.TypeANY:
		return minimalAny
	case t >= 128 && t < 256: // further types of queries, not of records
		return notImplemented
	case q.flags&flagRD == 0:
		return notRecursive
	}
	return nil
}

// nameLength returns the length of a name on the wire, not compressed, or 0 if it is not valid.
func nameLength(name string) int {
	if name != "." && strings.IndexByte(name, '\\') < 0 {
		return len(name) + 1 // a length for each dot, and the root's
	}
	var wire [256]byte
	n, err := dns.PackDomainName(name, wire[:], 0, nil, false)
	if err != nil {
		return 0
	}
	return n
}

// header appends the header of a response. The sections besides the question are counted by the
// caller.
func (q *query) header(b []byte, rcode int) []byte {
	flags := flagQR | flagRA | q.flags&(maskOpcode|flagRD|flagCD) | uint16(rcode&maskRcode)
	b = binary.BigEndian.AppendUint16(b, q.id)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)
	if q.question != nil {
		b[5] = 1
	}
	return append(b, q.question...)
}

// opt appends the OPT record of a response, if the client sent one. A text that does not fit is left
// out.
func (q *query) opt(b []byte, rcode int, info *extended) []byte {
	if !q.edns {
		return b
	}
	b[11]++ // at most a few hundred records: answer.go leaves room
	if b[11] == 0 {
		b[10]++
	}
	b = append(b, 0, 0, byte(dns.TypeOPT), ednsSize>>8, ednsSize&0xff, byte(rcode>>4), 0)
	if q.key.do {
		b = append(b, 0x80, 0)
	} else {
		b = append(b, 0, 0)
	}
	if info == nil {
		return append(b, 0, 0)
	}
	text := info.text
	if len(b)+8+len(text) > q.size {
		text = ""
	}
	b = binary.BigEndian.AppendUint16(b, uint16(6+len(text)))
	b = append(b, 0, dns.EDNS0EDE)
	b = binary.BigEndian.AppendUint16(b, uint16(2+len(text)))
	b = binary.BigEndian.AppendUint16(b, info.code)
	return append(b, text...)
}

// refuse returns the response to a query that is not asked, or nil.
func (q *query) refuse(r *refusal) []byte {
	if r.silent {
		return nil
	}
	b := q.header(make([]byte, 0, headerSize+len(q.question)+96), r.rcode)
	if r.hinfo {
		const day = 86400 // as RFC 8482, section 4.2 proposes for the TTL
		b[7] = 1
		b = append(b, 0xc0, headerSize, 0, byte(dns.TypeHINFO), 0, dns.ClassINET)
		b = binary.BigEndian.AppendUint32(b, day)
		b = append(b, 0, 9, 7)
		b = append(b, "RFC8482"...)
		b = append(b, 0)
	}
	return q.opt(b, r.rcode, r.info)
}

// render returns an answer as the client can take it: with its ID and its spelling of the name, with
// the TTLs that are left, and cut to the question with TC if it is too long.
func (q *query) render(a *answer, age time.Duration, stale bool) []byte {
	info := a.info
	if stale {
		info = staleAnswer
		if a.rcode() == dns.RcodeNameError {
			info = staleNameError
		}
	}
	room := 0
	if q.edns {
		room = 11
		if info != nil {
			room += 6 // its text is optional
		}
	}
	if len(a.wire)+room > q.size {
		b := q.header(make([]byte, 0, headerSize+len(q.question)+96), a.rcode())
		b[2] |= flagTC >> 8
		return q.opt(b, a.rcode(), info)
	}
	b := make([]byte, len(a.wire), len(a.wire)+96)
	copy(b, a.wire)
	flags := binary.BigEndian.Uint16(b[2:]) | q.flags&(flagRD|flagCD)
	if !q.ad && !q.key.do {
		flags &^= flagAD
	}
	binary.BigEndian.PutUint16(b, q.id)
	binary.BigEndian.PutUint16(b[2:], flags)
	copy(b[headerSize:], q.question)
	a.setTTLs(b, age, stale)
	return q.opt(b, a.rcode(), info)
}
