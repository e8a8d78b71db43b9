package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// resolver simulates the VPC's resolver. Its connections are pipes, so that it also works in simulated
// time.
type resolver struct {
	mu      sync.Mutex
	respond func(network string, q *dns.Msg) []response
	refuse  bool // connections
	asked   []string
	queries []*dns.Msg
	open    int // connections
	maxOpen int
}

// response is a message of the resolver after a time.
type response struct {
	after time.Duration
	msg   []byte
}

var errRefused = errors.New("connection refused")

func (r *resolver) Dial(_ context.Context, network string) (net.Conn, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse {
		return nil, errRefused
	}
	r.open++
	r.maxOpen = max(r.maxOpen, r.open)
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		r.serve(network, theirs)
		r.mu.Lock()
		r.open--
		r.mu.Unlock()
	}()
	return ours, nil
}

func (r *resolver) serve(network string, conn net.Conn) {
	buf := make([]byte, 1<<16)
	for {
		var msg []byte
		var err error
		if network == "tcp" {
			msg, err = readFrame(conn)
		} else {
			var n int
			n, err = conn.Read(buf)
			msg = buf[:n]
		}
		if err != nil {
			return
		}
		q := new(dns.Msg)
		if err := q.Unpack(msg); err != nil {
			panic(err)
		}
		r.mu.Lock()
		r.asked = append(r.asked, network+" "+dns.TypeToString[q.Question[0].Qtype]+" "+q.Question[0].Name)
		r.queries = append(r.queries, q)
		respond := r.respond
		r.mu.Unlock()
		for _, p := range respond(network, q) {
			time.Sleep(p.after)
			out := p.msg
			if network == "tcp" {
				out = append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...)
			}
			if _, err := conn.Write(out); err != nil {
				return
			}
		}
	}
}

// set replaces the responses.
func (r *resolver) set(respond func(network string, q *dns.Msg) []response) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.respond = respond
}

// setRefuse makes the resolver refuse connections, or accept them again.
func (r *resolver) setRefuse(refuse bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refuse = refuse
}

// seen returns the questions since the last call: "udp A name.".
func (r *resolver) seen() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.asked
	r.asked = nil
	return out
}

// records answers with the records of the zone that match, with aliases followed; a name without
// any is NXDOMAIN, a type without any NODATA, both with the zone's SOA record. A name below "*." of the
// zone matches that.
func records(zone ...string) func(string, *dns.Msg) []response {
	return func(_ string, q *dns.Msg) []response { return []response{{msg: pack(lookUp(q, zone))}} }
}

func after(d time.Duration, respond func(string, *dns.Msg) []response) func(string, *dns.Msg) []response {
	return func(network string, q *dns.Msg) []response {
		out := respond(network, q)
		out[0].after = d
		return out
	}
}

func silent(string, *dns.Msg) []response { return nil }

func lookUp(q *dns.Msg, zone []string) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable = true
	name := q.Question[0].Name
	exists := false
	for range 8 {
		alias := ""
		for _, text := range zone {
			rr := parse(text)
			owner := rr.Header().Name
			if base, ok := strings.CutPrefix(owner, "*."); ok && strings.HasSuffix(name, "."+base) {
				rr.Header().Name = name
			} else if !strings.EqualFold(owner, name) {
				continue
			}
			exists = true
			switch t := rr.Header().Rrtype; {
			case t == q.Question[0].Qtype:
				m.Answer = append(m.Answer, rr)
			case t == dns.TypeCNAME:
				m.Answer = append(m.Answer, rr)
				alias = rr.(*dns.CNAME).Target
			}
		}
		if alias == "" {
			break
		}
		name = alias
	}
	if !hasType(m.Answer, q.Question[0].Qtype) {
		if !exists {
			m.Rcode = dns.RcodeNameError
		}
		for _, text := range zone {
			if rr := parse(text); rr.Header().Rrtype == dns.TypeSOA {
				m.Ns = append(m.Ns, rr)
			}
		}
	}
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(4096, opt.Do())
	}
	return m
}

func parse(text string) dns.RR {
	rr, err := dns.NewRR(text)
	if err != nil {
		panic(err)
	}
	return rr
}

func pack(m *dns.Msg) []byte {
	m.Compress = true
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return b
}

// soa is the SOA record of the tests' zone: negative answers live for 60 s.
const soa = `example.com. 900 IN SOA ns.example.com. host\.master.example.com. 1 7200 900 1209600 60`

var (
	alice = netip.MustParseAddrPort("100.64.0.1:4000")
	bob   = netip.MustParseAddrPort("100.64.0.2:4000")
)

// start returns a server that asks r. It is closed at the end of the test.
func start(t testing.TB, r *resolver, change func(*Config)) *Server {
	t.Helper()
	cfg := Config{Dial: r.Dial, Logger: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// bubble runs f in simulated time, and leaves the resolver the time to end its connections.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f(t)
		time.Sleep(time.Minute)
	})
}

// ask sends a query over UDP and returns the answer.
func ask(t testing.TB, s *Server, client netip.AddrPort, name, qtype string, change ...func(*dns.Msg)) *dns.Msg {
	t.Helper()
	q := newQuery(name, qtype, change...)
	b := s.Serve(t.Context(), client, false, pack(q))
	if b == nil {
		t.Fatalf("%s %s has no answer", name, qtype)
	}
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		t.Fatalf("%s %s: %v", name, qtype, err)
	}
	if m.Id != q.Id || !m.Response || len(m.Question) != 1 || m.Question[0] != q.Question[0] {
		t.Fatalf("%s %s: the answer is to another query:\n%v", name, qtype, m)
	}
	return m
}

// answerText returns the answer to q, as text does.
func answerText(t testing.TB, s *Server, q *dns.Msg) string {
	t.Helper()
	m := new(dns.Msg)
	if err := m.Unpack(s.Serve(t.Context(), alice, false, pack(q))); err != nil {
		t.Fatal(err)
	}
	return text(m)
}

func newQuery(name, qtype string, change ...func(*dns.Msg)) *dns.Msg {
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.StringToType[qtype])
	for _, f := range change {
		f(q)
	}
	return q
}

// edns adds an OPT record to a query.
func edns(q *dns.Msg) { q.SetEdns0(1232, false) }

// text returns the answer in one line: the code, the records of all sections without OPT, and the
// extended error.
func text(m *dns.Msg) string {
	out := []string{dns.RcodeToString[m.Rcode]}
	if m.Rcode == dns.RcodeBadVers { // of EDNS; the library has the name that it has with TSIG
		out[0] = "BADVERS"
	}
	for _, r := range allRecords(m) {
		opt, ok := r.(*dns.OPT)
		if !ok {
			out = append(out, strings.Join(strings.Fields(strings.ReplaceAll(r.String(), "\tIN\t", " ")), " "))
			continue
		}
		for _, o := range opt.Option {
			if e, ok := o.(*dns.EDNS0_EDE); ok {
				out = append(out, "EDE "+dns.ExtendedErrorCodeToString[e.InfoCode])
			}
		}
	}
	return strings.Join(out, "; ")
}

func expect(t testing.TB, m *dns.Msg, want string) {
	t.Helper()
	if got := text(m); got != want {
		t.Errorf("the answer to %s is\n\t%s\nwant\n\t%s", m.Question[0].String(), got, want)
	}
}

func expectAsked(t testing.TB, r *resolver, want ...string) {
	t.Helper()
	got := r.seen()
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the resolver was asked %q, want %q", got, want)
	}
}
