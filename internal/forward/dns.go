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

// maxPendingQueries bounds queries.pending. A flow with more belongs to a resolver of many
// clients, and ends by its idle timeout.
const maxPendingQueries = 64

// queries are the queries of one DNS flow. It is a pure state machine, whose owner guards it:
//
//	          sent                  answered (last)
//	none ──────────────▶ pending ─────────────────────▶ idle
//	                       ▲                              │
//	                       └──────────────────────────────┘ sent
//
// With more than maxPendingQueries unanswered ones it has overflowed, and stays pending for good.
type queries struct {
	pending []uint16 // IDs of the unanswered queries, without repetitions
	total   int      // all queries so far
	// reused is true if the flow's socket came from another flow: late answers to that one's
	// queries may arrive.
	reused bool
}

// sent notes a datagram of the client.
func (q *queries) sent(datagram []byte) {
	if id := queryID(datagram); !slices.Contains(q.pending, id) && !q.overflowed() {
		q.pending = append(q.pending, id)
	}
	q.total++
}

// answered notes a datagram of the target. It reports whether the datagram is for this flow's
// client, and whether it was the last pending answer. A reused socket may receive answers to
// queries that another port of the client sent.
func (q *queries) answered(datagram []byte) (wanted, last bool) {
	i := slices.Index(q.pending, queryID(datagram))
	if i < 0 {
		return !q.reused || q.overflowed(), false
	}
	if !q.overflowed() {
		q.pending = slices.Delete(q.pending, i, i+1)
	}
	return true, len(q.pending) == 0
}

// idleSince reports whether every query is answered and none was sent since there were total of
// them.
func (q *queries) idleSince(total int) bool { return q.total == total && len(q.pending) == 0 }

func (q *queries) overflowed() bool { return len(q.pending) > maxPendingQueries }

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

// idleRing holds the newest maxIdleDNS answered flows. A flow may have several entries, of which
// at most one is not stale.
type idleRing[F any] struct {
	entries [maxIdleDNS]idleFlow[F]
	next    int // index of the oldest entry
}

// add adds an entry and returns the one that it replaces.
func (r *idleRing[F]) add(e idleFlow[F]) (oldest idleFlow[F]) {
	oldest = r.entries[r.next]
	r.entries[r.next] = e
	r.next = (r.next + 1) % maxIdleDNS
	return oldest
}

// newest returns entry number i, of maxIdleDNS, from the newest to the oldest.
func (r *idleRing[F]) newest(i int) *idleFlow[F] {
	return &r.entries[(r.next+maxIdleDNS-1-i)%maxIdleDNS]
}
