package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	askWithin   = 5 * time.Second // all tries of one question
	maxInvalid  = 16              // messages that a connection ignores
	downAfter   = 3               // questions in a row that failed, until the log has it
	tcpPackets  = 6               // of an exchange over TCP, about
	udpReadSize = 4096            // more than ednsSize, to notice a longer datagram
)

// tries is the schedule of the tries of a question. Earlier ones continue, since their
// answers may only be late.
var tries = []struct {
	at      time.Duration
	network string
}{{0, "udp"}, {400 * time.Millisecond, "udp"}, {1200 * time.Millisecond, "tcp"}, {2800 * time.Millisecond, "udp"}}

// errSilent is the failure of a question without an answer in time.
var errSilent = errors.New("the VPC's resolver does not answer")

// unreachable is the answer to clients then.
var unreachable = &refusal{rcode: dns.RcodeServerFailure, result: failed, info: &extended{dns.ExtendedErrorCodeNetworkError, errSilent.Error()}}

// refusalError is a failure with an answer of its own.
type refusalError struct {
	refusal *refusal
	cause   string
}

func (e *refusalError) Error() string { return e.cause }

// upstream asks the VPC's resolver.
type upstream struct {
	ctx     context.Context // ends with the server
	dial    func(ctx context.Context, network string) (net.Conn, error)
	allow   func(packets int) bool // reports whether a further try may send packets
	metrics *metrics
	log     *slog.Logger

	mu      sync.Mutex
	calls   map[key]*call
	failed  int   // questions in a row
	lastErr error // of the last one
	rate    rate
}

// call is a question that the resolver is being asked. Its outcome is set before done is closed, and
// not changed.
type call struct {
	done chan struct{}
	msg  *dns.Msg
	err  error
}

func newUpstream(ctx context.Context, dial func(context.Context, string) (net.Conn, error), allow func(int) bool, m *metrics, log *slog.Logger) *upstream {
	return &upstream{ctx: ctx, dial: dial, allow: allow, metrics: m, log: log, calls: map[key]*call{}, rate: rate{begun: time.Now()}}
}

// ask returns the resolver's answer to a question, which the caller must not change. A question that is
// already being asked is not asked twice: with a site, a client's questions for A and AAAA records share
// one.
func (u *upstream) ask(k key) (*dns.Msg, error) {
	u.mu.Lock()
	c := u.calls[k]
	if c != nil {
		u.mu.Unlock()
		<-c.done
		return c.msg, c.err
	}
	c = &call{done: make(chan struct{})}
	u.calls[k] = c
	u.mu.Unlock()

	begun := time.Now()
	c.msg, c.err = u.exchange(k)
	u.metrics.asked(time.Since(begun), c.err)
	close(c.done)

	u.mu.Lock()
	delete(u.calls, k)
	failed := u.failed
	var answered *refusalError
	switch {
	case u.ctx.Err() != nil:
	case c.err == nil || errors.As(c.err, &answered):
		u.failed, u.lastErr = 0, nil
	default:
		u.failed++
		u.lastErr = c.err
	}
	now := u.failed
	u.mu.Unlock()
	switch {
	case now == downAfter && failed < downAfter:
		u.log.Warn("the VPC's resolver does not answer; clients have stale answers or SERVFAIL", "err", c.err,
			"fix", "check the VPC's enableDnsSupport, and the load in router_dns_upstream_packets_per_second")
	case now == 0 && failed >= downAfter:
		u.log.Info("the VPC's resolver answers again")
	}
	return c.msg, c.err
}

// failing returns the error of the last question if the last ones had no answer.
func (u *upstream) failing() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.failed < downAfter {
		return nil
	}
	return u.lastErr
}

// try is the outcome of one try.
type try struct {
	msg     *dns.Msg
	network string
	err     error
}

// exchange asks a question until it has a valid answer that is not truncated.
func (u *upstream) exchange(k key) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(u.ctx, askWithin)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel() // first, so that the tries end
	results := make(chan try, len(tries)+1)
	open, overTCP := 0, false
	begin := func(network string) {
		open++
		overTCP = overTCP || network == "tcp"
		running.Go(func() {
			m, err := u.try(ctx, network, k)
			results <- try{m, network, err}
		})
	}
	last := errSilent
	next := time.NewTimer(0)
	defer next.Stop()
	for n := 0; ; {
		select {
		case <-next.C:
			if t := tries[n]; (t.network == "udp" || !overTCP) && (n == 0 || u.allow(packets(t.network))) {
				begin(t.network)
			}
			if n++; n < len(tries) {
				next.Reset(tries[n].at - tries[n-1].at)
			} else if open == 0 {
				return nil, last
			}
		case r := <-results:
			open--
			switch {
			case ctx.Err() != nil: // which also ended the try
				return nil, last
			case r.err != nil:
				last = r.err
			case !r.msg.Truncated:
				return r.msg, rcodeError(r.msg)
			case !overTCP:
				begin("tcp")
			}
			if open == 0 && n == len(tries) {
				return nil, last
			}
		case <-ctx.Done():
			return nil, last
		}
	}
}

// packets returns about how many packets a try sends.
func packets(network string) int {
	if network == "tcp" {
		return tcpPackets
	}
	return 1
}

// rcodeError returns an error for a response that is not an answer.
func rcodeError(m *dns.Msg) error {
	switch m.Rcode {
	case dns.RcodeSuccess, dns.RcodeNameError:
		return nil
	}
	r := &refusal{rcode: m.Rcode, result: failed, info: dropEDNS(m)}
	if r.rcode > maskRcode { // of EDNS, and so about our query
		r.rcode = dns.RcodeServerFailure
	}
	return &refusalError{r, "the VPC's resolver answers with " + dns.RcodeToString[m.Rcode]}
}

// try sends a question over a connection of its own, and so from another port, and with another ID.
// It ignores messages that are not the answer.
func (u *upstream) try(ctx context.Context, network string, k key) (*dns.Msg, error) {
	conn, err := u.dial(ctx, network)
	if err != nil {
		return nil, fmt.Errorf("connecting to the VPC's resolver: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	u.mu.Lock()
	u.rate.add(time.Now(), packets(network))
	u.mu.Unlock()
	u.metrics.packets.Add(float64(packets(network)))

	id := uint16(rand.Uint32())
	query, err := question(k, id)
	if err != nil {
		return nil, err
	}
	if network == "tcp" {
		query = append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(query)), uint16(len(query))), query...)
	}
	if _, err := conn.Write(query); err != nil {
		return nil, fmt.Errorf("asking the VPC's resolver: %w", err)
	}
	buf := make([]byte, udpReadSize)
	for range maxInvalid {
		var msg []byte
		if network == "tcp" {
			msg, err = readFrame(conn)
		} else {
			var n int
			n, err = conn.Read(buf)
			msg = buf[:n]
		}
		if err != nil {
			return nil, fmt.Errorf("waiting for the VPC's resolver: %w", err)
		}
		if m := validate(msg, id, k); m != nil && (network == "udp" || !m.Truncated) {
			return m, nil
		}
		u.metrics.invalidAnswers.Inc()
	}
	return nil, fmt.Errorf("the VPC's resolver sent %d invalid answers", maxInvalid)
}

// question returns the query for k. It has no option, so that none of a client's leaves the router.
func question(k key, id uint16) ([]byte, error) {
	m := dns.Msg{Id: id, RecursionDesired: true, CheckingDisabled: k.cd, AuthenticatedData: true}
	m.Question = []dns.Question{{Name: k.name, Qtype: k.qtype, Qclass: dns.ClassINET}}
	m.SetEdns0(ednsSize, k.do)
	b, err := m.Pack()
	if err != nil {
		return nil, fmt.Errorf("writing a question: %w", err)
	}
	return b, nil
}

// validate returns msg if it is a complete answer to k with this ID; else nil. A truncated one may end
// anywhere after the question, and only serves to ask again over TCP.
func validate(msg []byte, id uint16, k key) *dns.Msg {
	m := new(dns.Msg)
	if err := m.Unpack(msg); err != nil && !m.Truncated || !m.Response || m.Id != id || m.Opcode != dns.OpcodeQuery || len(m.Question) != 1 {
		return nil
	}
	q := m.Question[0]
	if !strings.EqualFold(q.Name, k.name) || q.Qtype != k.qtype || q.Qclass != dns.ClassINET {
		return nil
	}
	// The library takes fewer records than announced for a complete message.
	for i, n := range []int{len(m.Answer), len(m.Ns), len(m.Extra)} {
		if int(binary.BigEndian.Uint16(msg[6+2*i:])) != n && !m.Truncated {
			return nil
		}
	}
	return m
}

// readFrame reads a message over TCP.
func readFrame(r io.Reader) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(r, msg)
	return msg, err
}

// rate counts packets by the second.
type rate struct {
	begun             time.Time
	second            int64 // of current
	current, previous int
}

func (r *rate) add(now time.Time, n int) {
	switch s := int64(now.Sub(r.begun) / time.Second); s - r.second {
	case 0:
	case 1:
		r.second, r.previous, r.current = s, r.current, 0
	default:
		r.second, r.previous, r.current = s, 0, 0
	}
	r.current += n
}

// last returns the packets of the last whole second.
func (u *upstream) last(now time.Time) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.rate.add(now, 0)
	return u.rate.previous
}
