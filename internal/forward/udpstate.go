package forward

import (
	"encoding/binary"
	"slices"
	"time"
)

// A DNS flow ends when each query has its answer. A forwarding resolver may take longer than a
// client's first timeout, and clients keep listening while they retry: 30 s is also
// tailscaled's timeout. Other flows live for at least two minutes, as RFC 4787 section 4.3
// requires.
const (
	dnsPort        = 53
	dnsIdleTimeout = 30 * time.Second
	udpIdleTimeout = 2 * time.Minute
)

// maxPendingQueries bounds udpState.pending. A flow with more belongs to a resolver of many
// clients, and ends by its idle timeout.
const maxPendingQueries = 64

// udpState decides when a UDP flow is idle, and which datagrams it passes on. It does no I/O and
// reads no clock; its owner guards it. A flow that is not one of DNS passes every datagram on, and
// is idle by its timeout only. For DNS:
//
//	          fromClient               fromTarget: the last answer
//	new ──────────────────▶ pending ────────────────────────────────▶ answered
//	                           ▲                                          │
//	                           └────────────────────────── fromClient ────┘
//
// With more than maxPendingQueries unanswered queries it has overflowed: it stays pending for
// good, passes every datagram on, and ends by its timeout.
type udpState struct {
	dns bool // does not change, and may be read without the owner's lock
	// reused is true if the flow's socket came from another flow: late answers to that one's
	// queries may arrive.
	reused bool

	pending []uint16 // IDs of the unanswered queries, without repetitions
	queries int      // all queries so far
}

// timeout returns the time without data after which the flow ends.
func (s *udpState) timeout() time.Duration {
	if s.dns {
		return dnsIdleTimeout
	}
	return udpIdleTimeout
}

// fromClient notes a datagram of the client. It is to be passed on in any case.
func (s *udpState) fromClient(datagram []byte) {
	if !s.dns {
		return
	}
	if id := queryID(datagram); !slices.Contains(s.pending, id) && !s.overflowed() {
		s.pending = append(s.pending, id)
	}
	s.queries++
}

// fromTarget notes a datagram of the target. It reports whether to pass the datagram on to the
// client, and whether it was the last pending answer, so that the flow is answered. A reused socket
// may receive answers to queries that another port of the client sent; it drops them.
func (s *udpState) fromTarget(datagram []byte) (pass, answered bool) {
	if !s.dns {
		return true, false
	}
	i := slices.Index(s.pending, queryID(datagram))
	if i < 0 {
		return !s.reused || s.overflowed(), false
	}
	if !s.overflowed() {
		s.pending = slices.Delete(s.pending, i, i+1)
	}
	return true, len(s.pending) == 0
}

// answeredAt reports whether every query is answered and there has been no query since there were
// n of them.
func (s *udpState) answeredAt(n int) bool { return s.queries == n && len(s.pending) == 0 }

// overflowed reports whether there are too many unanswered queries to match their answers.
func (s *udpState) overflowed() bool { return len(s.pending) > maxPendingQueries }

// queryID returns the ID that an answer repeats from its query (RFC 1035 section 4.1.1).
func queryID(datagram []byte) uint16 {
	if len(datagram) < 2 {
		return 0
	}
	return binary.BigEndian.Uint16(datagram)
}

// socketReuse is the policy for the socket of a DNS flow whose queries are all answered. A client
// that got an answer often sends another query soon, and opening a socket costs more than a
// query. So up to maxIdleDNS answered flows stay open for a while, at any rate of queries,
// unless their room is needed. Meanwhile the client may continue the flow, or send from another
// port, as resolvers do: then the new flow takes over the socket.
//
// The zero value closes each flow with its last answer.
type socketReuse struct {
	// idle is how long an answered flow stays open.
	idle time.Duration
	// age bounds the age of a socket that another flow takes over: a port in use for longer
	// could be discovered, and answers to it forged (RFC 5452 section 9.2).
	age time.Duration
}

var defaultReuse = socketReuse{idle: time.Second, age: time.Second}

// enabled reports whether answered flows stay open at all.
func (r socketReuse) enabled() bool { return r.idle > 0 }

// mayTake reports whether a flow of one key, opened now, may take over the socket that an
// answered flow of another key connected at a time: it must be between the same two hosts, and
// to the same port.
func (r socketReuse) mayTake(now, connected time.Time, of, from flowKey) bool {
	return from.dst == of.dst && from.client.Addr() == of.client.Addr() && now.Sub(connected) < r.age
}

const maxIdleDNS = 128

// idleFlow is an answered DNS flow F. The entry is stale once the flow has more queries. The zero
// value is no flow.
type idleFlow[F any] struct {
	flow    F
	queries int // of the flow, when it became idle
}

// idleFlows holds the newest maxIdleDNS answered flows, and applies a policy to them. Like udpState
// it does no I/O; its owner guards it. A flow may have several entries, of which at most one is not
// stale.
type idleFlows[F any] struct {
	reuse socketReuse
	ring  [maxIdleDNS]idleFlow[F]
	next  int // index of the oldest entry
}

// add notes that a flow is answered. It returns the entry whose flow is to be ended instead: the
// oldest, or the new one itself if sockets are not reused.
func (t *idleFlows[F]) add(e idleFlow[F]) (end idleFlow[F]) {
	if !t.reuse.enabled() {
		return e
	}
	end = t.ring[t.next]
	t.ring[t.next] = e
	t.next = (t.next + 1) % maxIdleDNS
	return end
}

// newest returns entry number i, of maxIdleDNS, from the newest to the oldest. The caller may clear
// it.
func (t *idleFlows[F]) newest(i int) *idleFlow[F] {
	return &t.ring[(t.next+maxIdleDNS-1-i)%maxIdleDNS]
}
