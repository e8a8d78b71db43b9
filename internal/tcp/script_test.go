package tcp

import (
	"bytes"
	"fmt"
	"testing"
	"time"
)

const (
	ourISS  = 1000
	peerISS = 5000
	testMSS = 1000
)

// script is one connection whose peer is the test. Positions are those of package tcp: the first byte is at 0.
type script struct {
	t   *testing.T
	c   *Conn
	now time.Duration
	run Run
}

// listen returns a connection from Accept, with its options and the peer's SYN edited.
func listen(t *testing.T, edit func(*Options, *Segment)) *script {
	t.Helper()
	o := Options{MSS: testMSS, ISS: ourISS, Congestion: fixed(1<<20, 64<<10), SendLimit: 1 << 20, ReceiveLimit: 1 << 20}
	syn := Segment{Seq: peerISS, Flags: SYN, Window: 65535, MSS: testMSS, Scale: 7, SACKPermitted: true}
	if edit != nil {
		edit(&o, &syn)
	}
	s := &script{t: t, now: time.Minute}
	s.c = Accept(s.now, o, &syn)
	return s
}

// open returns an established connection.
func open(t *testing.T, edit func(*Options, *Segment)) *script {
	t.Helper()
	s := listen(t, edit)
	s.c.Answer(s.now)
	s.next("handshake", Segment{Flags: SYN | ACK})
	s.pass(50 * time.Millisecond)
	s.in(s.ack(0))
	if s.c.State() != Established {
		t.Fatalf("the state is %v after the handshake", s.c.State())
	}
	return s
}

// ack returns a segment of the peer without payload, which acknowledges the positions before pos.
func (s *script) ack(pos int64) Segment {
	g := Segment{Seq: s.c.peerSeq(s.c.in.next), Ack: s.c.seq(pos), Flags: ACK, Window: 512, Scale: -1}
	if s.c.timestamps {
		g.Timestamps, g.TSVal, g.TSEcr = true, s.c.tsRecent+1, s.c.timestamp(s.now)
	}
	return g
}

// data returns a segment of the peer with n bytes at a position.
func (s *script) data(pos int64, n int) Segment {
	g := s.ack(s.c.una)
	g.Seq, g.Payload = s.c.peerSeq(pos), stream(pos, n)
	return g
}

// stream returns n bytes of a stream that begin at a position.
func stream(pos int64, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte((pos + int64(i)) % 251)
	}
	return b
}

// sacks returns g with SACK blocks, given as pairs of positions of the own stream.
func (s *script) sacks(g Segment, positions ...int64) Segment {
	for i := 0; i < len(positions); i += 2 {
		g.SACK[g.Blocks] = Block{s.c.seq(positions[i]), s.c.seq(positions[i+1])}
		g.Blocks++
	}
	return g
}

// in delivers segments and returns the answers.
func (s *script) in(segments ...Segment) []sentRun {
	s.t.Helper()
	var out []sentRun
	for i := range segments {
		s.c.Deliver(s.now, &segments[i])
		out = append(out, s.out()...)
	}
	return out
}

// sentRun is a run with positions.
type sentRun struct {
	Segment
	from, to int64 // of the payload and FIN
	ackTo    int64
	data     []byte
	mss      int
}

// out returns all that is sent now.
func (s *script) out() []sentRun {
	s.t.Helper()
	var out []sentRun
	for s.c.Next(s.now, &s.run) {
		g, err := Parse(s.run.Header)
		if err != nil {
			s.t.Fatal(err)
		}
		x := sentRun{Segment: g, from: int64(int32(g.Seq - ourISS - 1)), mss: s.run.MSS, data: bytes.Join(s.run.Pieces, nil)}
		x.to = x.from + int64(len(x.data))
		if g.Flags&FIN != 0 {
			x.to++
		}
		x.ackTo = int64(int32(g.Ack - peerISS - 1))
		out = append(out, x)
		if err := s.c.check(); err != nil {
			s.t.Fatal(err)
		}
		if len(out) > 10_000 {
			s.t.Fatal("segments without end")
		}
	}
	return out
}

// next fails the test unless exactly one segment is sent now, with the flags of want.
func (s *script) next(what string, want Segment) sentRun {
	s.t.Helper()
	return s.one(what, s.out(), want.Flags)
}

func (s *script) one(what string, out []sentRun, flags Flags) sentRun {
	s.t.Helper()
	if len(out) != 1 || out[0].Flags&^PSH != flags {
		s.t.Fatalf("%s: sent %v, want one segment with flags %06b", what, out, flags)
	}
	return out[0]
}

// none fails the test if something is sent.
func (s *script) none(what string, out []sentRun) {
	s.t.Helper()
	if len(out) != 0 {
		s.t.Fatalf("%s: sent %v, want nothing", what, out)
	}
}

func (r sentRun) String() string {
	return fmt.Sprintf("[%06b %d-%d ack %d win %d blocks %v]", r.Flags, r.from, r.to, r.ackTo, r.Window, r.SACK[:r.Blocks])
}

// pass lets time pass, without timers.
func (s *script) pass(d time.Duration) { s.now += d }

// wait runs the timers of a time, and returns the segments that they sent, with the times.
func (s *script) wait(d time.Duration) (out []sentRun, times []time.Duration) {
	s.t.Helper()
	end := s.now + d
	for n := 0; ; n++ {
		if n > 100_000 {
			s.t.Fatal("timers without end")
		}
		at, ok := s.c.Deadline()
		if !ok || at > end {
			s.now = end
			return out, times
		}
		s.now = max(s.now, at)
		s.c.Wake(s.now)
		for _, x := range s.out() {
			out = append(out, x)
			times = append(times, s.now)
		}
	}
}

// write commits n bytes, and returns the segments that are sent.
func (s *script) write(n int) []sentRun {
	s.t.Helper()
	for n > 0 {
		b := s.c.Buffer(n)
		m := copy(b, stream(s.c.out.end, len(b)))
		s.c.Commit(s.now, m)
		n -= m
	}
	return s.out()
}

// read consumes all that has arrived, verifies it, and returns how much it was.
func (s *script) read() int {
	s.t.Helper()
	total := 0
	for {
		at := s.c.in.consumed
		b := bytes.Join(s.c.Peek(), nil)
		if len(b) == 0 {
			return total
		}
		if !bytes.Equal(b, stream(at, len(b))) {
			s.t.Fatalf("wrong bytes at %d", at)
		}
		s.c.Consume(s.now, len(b))
		total += len(b)
	}
}
