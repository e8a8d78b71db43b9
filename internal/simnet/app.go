package simnet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// end is one end of a connection: an endpoint and the application that uses it.
type end struct {
	conn   *conn
	side   int
	config Config
	plan   Plan
	ep     Endpoint

	wakeAt  time.Duration // of the wake event that counts, if wakeSet
	wakeSet bool
	instant time.Duration // of the last call
	calls   int           // at that instant

	// The application acts only on notifications, so these are set by them, and cleared when
	// an operation would have blocked.
	up, canRead, canWrite bool

	stream  uint64        // determines the bytes that it writes
	next    int           // the next write of the plan
	left    int           // bytes of the current write
	due     time.Duration // when the next write begins
	pauses  int           // of the plan that are over or begun
	resume  time.Duration // when the current pause ends
	written int64
	read    int64

	closed  bool  // the application has closed its stream
	eof     bool  // it has read the end of the peer's
	aborted bool  // it has aborted
	err     error // of the reset that it has seen
	done    bool  // it does nothing more

	// progress is the time of its last step as a reader: bytes, the end, a pause that ends;
	// or of the last bytes that the peer could write to it.
	progress time.Duration
}

func (e *end) peer() *end   { return e.conn.ends[1-e.side] }
func (e *end) paused() bool { return e.resume != 0 }
func (e *end) ended() bool  { return e.done || e.aborted || e.err != nil }

// writing reports whether a write is due and not complete.
func (e *end) writing(now time.Duration) bool {
	return e.left > 0 || e.next < len(e.plan.Writes) && e.due+e.plan.Writes[e.next].After <= now
}

// apply lets the application take all the steps that are due and possible.
func (r *run) apply(e *end) {
	for r.failure == nil && !e.ended() && (r.write(e) || r.receive(e)) {
	}
	if e.ended() || r.failure != nil {
		return
	}
	if at := e.plan.AbortAt; at > 0 && r.now >= e.conn.start+at {
		r.abort(e)
		return
	}
	if e.up && !e.closed && e.left == 0 && e.next == len(e.plan.Writes) && r.now >= e.conn.start+e.plan.CloseAt && (e.eof || !e.plan.CloseLast || e.peer().plan.CloseLast) {
		e.closed = true
		e.peer().progress = r.now
		r.note(e.conn, "%*s %s closes its stream after %d bytes", 16, "", name(e.side), e.written)
		e.ep.CloseWrite(r.now)
	}
	if e.eof && e.closed {
		r.release(e)
	}
}

// write makes a step of the plan's writes. It reports whether there may be another.
func (r *run) write(e *end) bool {
	if !e.canWrite || !e.writing(r.now) || e.closed {
		return false
	}
	if e.left == 0 {
		e.left = e.plan.Writes[e.next].Size
		if e.plan.Writes[e.next].After >= time.Minute {
			r.result.Seen[SeenIdle]++
		}
		e.next++
		e.peer().progress = r.now
	}
	b := r.scratch[:min(e.left, len(r.scratch))]
	fill(b, e.stream, e.written)
	n, err := e.ep.Write(r.now, b)
	if n < 0 || n > len(b) || err == nil && n != len(b) || err != nil && n != 0 && !errors.Is(err, ErrWouldBlock) {
		r.fail(e.conn, CheckBytes, "Write of %s returns %d of %d bytes with error %v", name(e.side), n, len(b), err)
		return false
	}
	if n > 0 {
		r.note(e.conn, "%*s %s writes %d bytes at %d", 16, "", name(e.side), n, e.written)
		r.hash = hash64(r.hash, uint64(n))
		e.written += int64(n)
		e.left -= n
		e.peer().progress = r.now
	}
	if e.left == 0 {
		e.due = r.now
		r.scheduleApp(e)
	}
	switch {
	case err == nil:
		return true
	case errors.Is(err, ErrWouldBlock):
		e.canWrite = false
		return false
	default:
		r.reset(e, err)
		return false
	}
}

// receive reads once. It reports whether there may be more.
func (r *run) receive(e *end) bool {
	if e.paused() && r.now >= e.resume {
		e.resume = 0
		e.progress = r.now
		r.note(e.conn, "%*s %s continues to read", 16, "", name(e.side))
	}
	if !e.canRead || e.eof || e.ended() || e.paused() {
		return false
	}
	if e.pauses < len(e.plan.Pauses) && e.read >= e.plan.Pauses[e.pauses].At {
		p := e.plan.Pauses[e.pauses]
		e.pauses++
		e.resume = r.now + p.For
		r.push(event{at: e.resume, kind: act, end: e})
		r.note(e.conn, "%*s %s stops reading for %v", 16, "", name(e.side), p.For)
		return false
	}
	b := r.scratch[:e.plan.ReadSize]
	n, err := e.ep.Read(r.now, b)
	if n < 0 || n > len(b) || n > 0 && err != nil || n == 0 && err == nil {
		r.fail(e.conn, CheckBytes, "Read of %s returns %d bytes with error %v", name(e.side), n, err)
		return false
	}
	peer := e.peer()
	switch {
	case err == nil:
		r.verify(e, b[:n])
		return true
	case errors.Is(err, ErrWouldBlock):
		e.canRead = false
		return false
	case errors.Is(err, io.EOF):
		r.note(e.conn, "%*s %s reads the end after %d bytes", 16, "", name(e.side), e.read)
		e.eof, e.canRead, e.progress = true, false, r.now
		if !peer.closed || e.read != peer.written {
			r.fail(e.conn, CheckBytes, "%s reads the end after %d bytes; %s wrote %d (closed: %v)", name(e.side), e.read, name(1-e.side), peer.written, peer.closed)
		}
		return false
	default:
		r.reset(e, err)
		return false
	}
}

// verify compares received bytes with those that the peer wrote at their position.
func (r *run) verify(e *end, b []byte) {
	peer := e.peer()
	r.note(e.conn, "%*s %s reads %d bytes at %d", 16, "", name(e.side), len(b), e.read)
	if e.read+int64(len(b)) > peer.written {
		r.fail(e.conn, CheckBytes, "%s reads %d bytes at %d; %s wrote only %d", name(e.side), len(b), e.read, name(1-e.side), peer.written)
		return
	}
	want := r.expected[:len(b)]
	fill(want, peer.stream, e.read)
	if !bytes.Equal(b, want) {
		i := 0
		for b[i] == want[i] {
			i++
		}
		r.fail(e.conn, CheckBytes, "%s reads a wrong byte at %d: %#02x instead of %#02x", name(e.side), e.read+int64(i), b[i], want[i])
		return
	}
	if e.closed {
		r.result.Seen[SeenHalfClose]++
	}
	r.hash = hash64(r.hash, uint64(len(b)))
	e.read += int64(len(b))
	r.result.Bytes += int64(len(b))
	e.progress = r.now
}

// reset is the application's view of a reset. Only the peer's application may be the cause,
// since no fault of a scenario lasts as long as the timeouts of a TCP.
func (r *run) reset(e *end, err error) {
	r.note(e.conn, "%*s %s sees the error: %v", 16, "", name(e.side), err)
	e.err = err
	r.result.Resets++
	if !e.peer().aborted {
		r.fail(e.conn, CheckBytes, "%s sees a reset without a cause: %v", name(e.side), err)
	}
	r.release(e)
}

// abort ends a connection on behalf of an application.
func (r *run) abort(e *end) {
	r.note(e.conn, "%*s %s aborts", 16, "", name(e.side))
	r.result.Seen[SeenAbort]++
	e.aborted, e.done = true, true
	e.ep.Abort(r.now)
	r.finish(e)
}

// release closes the endpoint on behalf of an application that is done with it.
func (r *run) release(e *end) {
	r.note(e.conn, "%*s %s closes", 16, "", name(e.side))
	e.done = true
	e.ep.Close(r.now)
	r.finish(e)
}

// finish schedules the check of a connection's resources, if both applications are done.
func (r *run) finish(e *end) {
	if e.peer().done {
		r.push(event{at: max(r.now, r.Heal) + r.Linger, kind: checkAfter, conn: e.conn})
	}
}

// scheduleApp schedules the application's next actions that depend on time alone.
func (r *run) scheduleApp(e *end) {
	if e.next < len(e.plan.Writes) {
		r.push(event{at: max(r.now, e.due+e.plan.Writes[e.next].After), kind: act, end: e})
	}
	if e.next == 0 { // once
		if e.plan.AbortAt > 0 {
			r.push(event{at: e.conn.start + e.plan.AbortAt, kind: act, end: e})
		}
		if e.plan.CloseAt > 0 {
			r.push(event{at: e.conn.start + e.plan.CloseAt, kind: act, end: e})
		}
	}
}

// watch looks for a connection that is stuck, and repeats until it has ended.
func (r *run) watch(c *conn) {
	for _, e := range c.ends {
		r.watchReader(e)
		r.watchHalfOpen(e)
	}
	if r.failure == nil && !c.abandoned && !(c.ends[0].done && c.ends[1].done) {
		r.push(event{at: r.now + r.MaxStall/2, kind: watch, conn: c})
	}
}

// watchReader fails if bytes, an end or the connection itself should have reached an
// application that is willing to read.
func (r *run) watchReader(e *end) {
	peer := e.peer()
	if e.conn.abandoned || e.ended() || peer.aborted || peer.err != nil || e.paused() {
		return
	}
	pending := !e.up || peer.writing(r.now) || peer.written > e.read || peer.closed && !e.eof
	stalled := r.now - max(e.progress, r.Heal, e.conn.start)
	if !pending || stalled <= r.MaxStall {
		return
	}
	noTimer := ""
	if _, ok := peer.ep.Deadline(); !ok {
		noTimer = "; " + name(peer.side) + " has no timer"
	}
	switch {
	case !e.up:
		r.fail(e.conn, CheckStuck, "%s was not notified of the connection within %v", name(e.side), stalled)
	case peer.writing(r.now) && !peer.canWrite && r.couldWrite(peer):
		r.fail(e.conn, CheckStuck, "missed wake-up: %s can write, but was not notified within %v%s%s", name(peer.side), stalled, noTimer, peer.state())
	case !e.canRead && (peer.written > e.read || peer.closed) && r.couldRead(e):
		r.fail(e.conn, CheckStuck, "missed wake-up: %s can read, but was not notified within %v", name(e.side), stalled)
	default:
		r.fail(e.conn, CheckStuck, "no progress from %s to %s within %v: %d bytes written, %d acknowledged, %d read (closed: %v, end read: %v)%s%s%s",
			name(peer.side), name(e.side), stalled, peer.written, max(0, e.conn.wire.ends[e.side].acked), e.read, peer.closed, e.eof, noTimer, peer.state(), e.state())
	}
}

// couldRead reports whether a read would not block. It is used only after a failure, since it
// changes the endpoint.
func (r *run) couldRead(e *end) bool {
	_, err := e.ep.Read(r.now, make([]byte, 1))
	return !errors.Is(err, ErrWouldBlock)
}

func (r *run) couldWrite(e *end) bool {
	_, err := e.ep.Write(r.now, []byte{0})
	return !errors.Is(err, ErrWouldBlock)
}

// watchHalfOpen looks at an end whose peer has aborted. If it has bytes to send, it must learn
// of that from the answers. If not, and the reset was lost, only its application can give up.
func (r *run) watchHalfOpen(e *end) {
	peer := e.peer()
	if e.conn.abandoned || e.ended() || !peer.aborted && peer.err == nil || e.paused() {
		return
	}
	if r.now-max(e.progress, r.Heal, e.conn.start) <= r.MaxStall {
		return
	}
	if e.eof && e.canRead {
		return // it was notified, but has no reason to look before its next write
	}
	if e.up && (e.writing(r.now) || e.written > e.conn.wire.ends[1-e.side].acked) {
		r.fail(e.conn, CheckStuck, "%s does not notice that %s is gone: %d bytes written, %d acknowledged", name(e.side), name(peer.side), e.written, e.conn.wire.ends[1-e.side].acked)
		return
	}
	if e.up && e.next < len(e.plan.Writes) {
		return // it will notice later
	}
	r.abort(e)
	r.settle(e)
}

// checkReleased fails if an endpoint holds resources long after its connection.
func (r *run) checkReleased(c *conn) {
	for _, e := range c.ends {
		u := e.ep.Usage()
		at, timer := e.ep.Deadline()
		if u.Buffered == 0 && u.Connections == 0 && !timer {
			continue
		}
		due := "no timer"
		if timer {
			due = fmt.Sprintf("a timer that is due in %v", at-r.now)
		}
		r.fail(c, CheckMemory, "%s still has %d connections, %d bytes and %s, %v after the end%s", name(e.side), u.Connections, u.Buffered, due, r.Linger, e.state())
	}
}

// state returns the endpoint's description of its state, if it has one, to end a message.
func (e *end) state() string {
	if s, ok := e.ep.(fmt.Stringer); ok {
		return fmt.Sprintf("; %s is in %v", name(e.side), s)
	}
	return ""
}

// noise is random bytes. Its length is a prime number: bytes that a bug moves by a multiple of
// a segment, a buffer or a power of two are not equal to those at their new place.
var noise = sync.OnceValue(func() []byte {
	const length = 262_139
	b := make([]byte, 0, length+8)
	for i := uint64(0); len(b) < length; i++ {
		b = binary.LittleEndian.AppendUint64(b, mix(i))
	}
	return b[:length]
})

// fill sets b to the bytes of a stream at an offset: those of noise, from a place that the
// stream determines.
func fill(b []byte, stream uint64, offset int64) {
	n := noise()
	at := int((stream%uint64(len(n)) + uint64(offset)) % uint64(len(n)))
	for len(b) > 0 {
		copied := copy(b, n[at:])
		b, at = b[copied:], 0
	}
}
