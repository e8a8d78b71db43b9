package tcp

import (
	"sync"
	"time"

	"subnetrouter/internal/tcp/congestion"
)

const (
	// maxRecords bounds the records that SACK blocks of the peer can cause. A block that would need more marks only
	// the whole records inside of it: the rest is acknowledged later, or sent again.
	maxRecords = 4096
	// maxRecordsSent bounds them altogether. New data waits at this number, which only an application that writes
	// thousands of times within a round-trip time reaches.
	maxRecordsSent = 8192
	// spareRecords are those beyond two for each full segment that the bytes in flight would fill. Their memory, which
	// [Conn.Buffered] does not count, is thus in proportion to the bytes, whatever ranges a peer reports and however
	// small the writes are.
	spareRecords = 64
)

// recordState is where the bytes of a record are. The peer's cumulative acknowledgement removes the record.
type recordState uint8

const (
	inFlight recordState = iota
	lost                 // taken for lost, to be sent again
	sacked               // the peer has them
)

// record describes consecutive positions that were sent together: a run of segments, or a part of one that SACK blocks
// or losses have split.
type record struct {
	start, end int64
	sent       time.Duration // the last transmission
	packet     congestion.Packet
	prev, next *record // by time of transmission; only of those in flight
	state      recordState
	repeated   bool   // it was sent more than once
	stamp      uint32 // the timestamp of the last transmission
}

func (r *record) size() int { return int(r.end - r.start) }

var recordPool = sync.Pool{New: func() any { return new(record) }}

func newRecord() *record { return recordPool.Get().(*record) }

func (r *record) free() {
	*r = record{}
	recordPool.Put(r)
}

// scoreboard is the list of records, which cover the positions from SND.UNA to SND.NXT without gaps. Those in flight are
// also in a list by time of transmission, and then position, in which losses are found without a look at the others.
type scoreboard struct {
	records     []*record // by position, from index head on
	head        int
	first, last *record // by time

	inFlight, lost, sacked int   // bytes by state
	lostFrom               int64 // no record before this position is lost
}

func (b *scoreboard) len() int { return len(b.records) - b.head }

// at returns record number i, counted from the first.
func (b *scoreboard) at(i int) *record { return b.records[b.head+i] }

// find returns the number of the first record that ends after a position.
func (b *scoreboard) find(pos int64) int {
	low, high := b.head, len(b.records)
	for low < high {
		mid := int(uint(low+high) / 2)
		if b.records[mid].end > pos {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return low - b.head
}

// push adds a record in flight at the end.
func (b *scoreboard) push(r *record) {
	if b.head > 0 && len(b.records) == cap(b.records) {
		n := copy(b.records, b.records[b.head:])
		clear(b.records[n:])
		b.records, b.head = b.records[:n], 0
	}
	b.records = append(b.records, r)
	b.inFlight += r.size()
	b.link(r, b.last)
}

// popFirst removes the first record.
func (b *scoreboard) popFirst() {
	r := b.records[b.head]
	b.forget(r)
	b.records[b.head] = nil
	b.head++
	if b.head == len(b.records) {
		b.records, b.head = b.records[:0], 0
		if cap(b.records) > 32 {
			b.records = nil
		}
	}
	r.free()
}

// trimFirst removes the first record's positions before pos, which is inside of it.
func (b *scoreboard) trimFirst(pos int64) {
	r := b.records[b.head]
	*b.count(r.state) -= int(pos - r.start)
	r.start = pos
}

// count returns the counter of a state's bytes.
func (b *scoreboard) count(s recordState) *int {
	switch s {
	case lost:
		return &b.lost
	case sacked:
		return &b.sacked
	default:
		return &b.inFlight
	}
}

// forget subtracts a record from everything but the list by position.
func (b *scoreboard) forget(r *record) {
	*b.count(r.state) -= r.size()
	if r.state == inFlight {
		b.unlink(r)
	}
}

// setState changes a record's state. One that is in flight again has been sent now.
func (b *scoreboard) setState(r *record, s recordState) {
	b.forget(r)
	r.state = s
	*b.count(s) += r.size()
	switch s {
	case inFlight:
		b.link(r, b.last)
	case lost:
		b.lostFrom = min(b.lostFrom, r.start)
	case sacked:
	}
}

// link inserts a record in the list by time after another; nil is the start.
func (b *scoreboard) link(r, after *record) {
	r.prev = after
	if after == nil {
		r.next, b.first = b.first, r
	} else {
		r.next, after.next = after.next, r
	}
	if r.next == nil {
		b.last = r
	} else {
		r.next.prev = r
	}
}

func (b *scoreboard) unlink(r *record) {
	if r.prev == nil {
		b.first = r.next
	} else {
		r.prev.next = r.next
	}
	if r.next == nil {
		b.last = r.prev
	} else {
		r.next.prev = r.prev
	}
	r.prev, r.next = nil, nil
}

// recordLimit returns the number of records that the bytes in flight may have, which is at most most.
func (c *Conn) recordLimit(most int) int {
	return min(2*int(c.nxt-max(c.una, 0))/c.segmentSize()+spareRecords, most)
}

// split splits record number i at a position inside of it. It reports false, and does nothing, at limit records.
func (b *scoreboard) split(i int, pos int64, limit int) bool {
	if b.len() >= limit {
		return false
	}
	r, rest := b.at(i), newRecord()
	*rest = *r
	rest.start, r.end = pos, pos
	rest.prev, rest.next = nil, nil
	if r.state == inFlight {
		b.link(rest, r)
	}
	b.records = append(b.records, nil)
	at := b.head + i + 1
	copy(b.records[at+1:], b.records[at:])
	b.records[at] = rest
	return true
}

// remove removes record number i from the list by position.
func (b *scoreboard) remove(i int) {
	at := b.head + i
	b.records[at].free()
	n := copy(b.records[at:], b.records[at+1:])
	b.records[at+n] = nil
	b.records = b.records[:at+n]
}

// mergeSacked merges record number i, which is sacked, with sacked records next to it, and returns the number of the result.
// Each gapless range that the peer has is one record, however often it repeats its blocks.
func (b *scoreboard) mergeSacked(i int) int {
	r := b.at(i)
	if i+1 < b.len() && b.at(i+1).state == sacked {
		r.end = b.at(i + 1).end
		b.remove(i + 1)
	}
	if i > 0 && b.at(i-1).state == sacked {
		b.at(i - 1).end = r.end
		b.remove(i)
		i--
	}
	return i
}

// firstLost returns the number of the first lost record, or -1.
func (b *scoreboard) firstLost() int {
	if b.lost == 0 {
		return -1
	}
	for i := b.find(b.lostFrom); i < b.len(); i++ {
		if r := b.at(i); r.state == lost {
			b.lostFrom = r.start
			return i
		}
	}
	return -1
}

// clear frees all records.
func (b *scoreboard) clear() {
	for _, r := range b.records[b.head:] {
		r.free()
	}
	*b = scoreboard{}
}
