package tcp

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

	"subnetrouter/internal/tcp/congestion"
)

// Each test in this file shows a rule of docs/tcp.md.

func TestAnswerWaits(t *testing.T) {
	s := listen(t, nil)
	s.none("before Answer", s.out())
	syn := Segment{Seq: peerISS, Flags: SYN, Window: 65535, MSS: testMSS, Scale: 7, SACKPermitted: true}
	s.none("a repeated SYN", s.in(syn, syn))
	if _, ok := s.c.Deadline(); ok {
		t.Error("a timer runs before Answer")
	}
	s.c.Answer(s.now)
	g := s.next("Answer", Segment{Flags: SYN | ACK})
	if g.MSS != testMSS || g.Scale != ownScale || !g.SACKPermitted || g.Timestamps || g.ackTo != 0 || g.from != -1 {
		t.Errorf("SYN-ACK: %+v", g)
	}
	s.one("a repeated SYN", s.in(syn), SYN|ACK)
}

// TestNewerSYN: before Answer, a SYN of a newer connection takes the place of the first.
func TestNewerSYN(t *testing.T) {
	s := listen(t, nil)
	s.none("a newer SYN", s.in(Segment{Seq: peerISS + 77, Flags: SYN, Window: 1000, Scale: -1}))
	s.c.Answer(s.now)
	g := s.next("Answer", Segment{Flags: SYN | ACK})
	if g.Ack != peerISS+78 || g.Scale >= 0 || g.SACKPermitted {
		t.Errorf("SYN-ACK: %+v", g)
	}
}

// TestResetBeforeAnswer: a client that gives up before Answer ends the connection, and nothing is sent.
func TestResetBeforeAnswer(t *testing.T) {
	s := listen(t, nil)
	s.none("a reset elsewhere", s.in(Segment{Seq: peerISS + 5, Flags: RST, Scale: -1}))
	if s.c.Closed() {
		t.Fatal("a reset elsewhere ended the connection")
	}
	s.none("a reset", s.in(Segment{Seq: peerISS + 1, Flags: RST, Scale: -1}))
	s.c.Answer(s.now)
	s.none("Answer", s.out())
	if !s.c.Closed() || s.c.Established() || s.c.State().String() != "CLOSED" {
		t.Error(s.c.State())
	}
}

// TestOptionsAgreed: only the options that the SYN offers are used.
func TestOptionsAgreed(t *testing.T) {
	s := listen(t, func(_ *Options, syn *Segment) { *syn = Segment{Seq: peerISS, Flags: SYN, Window: 3000, Scale: -1} })
	s.c.Answer(s.now)
	g := s.next("Answer", Segment{Flags: SYN | ACK})
	if g.Scale >= 0 || g.SACKPermitted || g.Timestamps {
		t.Errorf("SYN-ACK: %+v", g)
	}
	s.in(s.ack(0))
	g = s.one("an early segment", s.in(s.data(100, 10)), ACK)
	if g.Blocks != 0 {
		t.Errorf("SACK blocks without permission: %v", g)
	}
	g2 := s.ack(0)
	g2.Seq, g2.Window = s.c.peerSeq(110), 5000
	s.in(g2)
	if out := s.write(2000); len(out) != 1 || out[0].mss != defaultMSS {
		t.Errorf("segments for a peer without the MSS option: %v", out)
	}
}

func TestHandshakeTimeout(t *testing.T) {
	s := listen(t, nil)
	s.c.Answer(s.now)
	s.out()
	start := s.now
	out, times := s.wait(2 * time.Minute)
	var at []time.Duration
	for i, g := range out[:len(out)-1] {
		if g.Flags != SYN|ACK {
			t.Fatalf("sent %v", g)
		}
		at = append(at, times[i]-start)
	}
	want := []time.Duration{time.Second, 3 * time.Second, 7 * time.Second, 15 * time.Second, 31 * time.Second}
	if !slices.Equal(at, want) {
		t.Errorf("SYN-ACKs after %v, want %v", at, want)
	}
	if last := out[len(out)-1]; last.Flags&RST == 0 || !errors.Is(s.c.Err(), ErrTimeout) {
		t.Errorf("the end: %v, error %v", last, s.c.Err())
	}
}

// TestRefuse: Abort before Answer resets the peer's SYN.
func TestRefuse(t *testing.T) {
	for _, answered := range []bool{false, true} { // the SYN-ACK is due, and not sent yet
		s := listen(t, nil)
		if answered {
			s.c.Answer(s.now)
		}
		s.c.Abort(s.now)
		if g := s.next("refusal", Segment{Flags: RST | ACK}); g.ackTo != 0 {
			t.Errorf("%v", g)
		}
	}
}

func TestHandshakeWrongACK(t *testing.T) {
	s := listen(t, nil)
	s.c.Answer(s.now)
	s.out()
	if g := s.one("an acknowledgement of another SYN", s.in(s.ack(55)), RST); g.from != 55 {
		t.Errorf("%v", g)
	}
	s.in(s.ack(0))
	if s.c.State() != Established {
		t.Errorf("the state is %v", s.c.State())
	}
}

func TestActiveOpen(t *testing.T) {
	now := time.Second
	var run Run
	c := Dial(now, Options{MSS: testMSS, ISS: ourISS, Congestion: fixed(1<<20, 64<<10), SendLimit: 1 << 20, ReceiveLimit: 1 << 20})
	c.Next(now, &run)
	c.Deliver(now, &Segment{Flags: RST | ACK, Ack: ourISS, Scale: -1})
	if c.State() != SynSent {
		t.Fatal("a reset with a wrong acknowledgement ended the attempt")
	}
	c.Deliver(now, &Segment{Flags: SYN | ACK, Seq: peerISS, Ack: ourISS + 55, Scale: -1})
	if s, _ := Parse(run.Header); c.State() != SynSent || !c.Next(now, &run) {
		t.Fatal(c.State(), s)
	}
	if s, _ := Parse(run.Header); s.Flags != RST || s.Seq != ourISS+55 {
		t.Errorf("answer to a wrong acknowledgement: %+v", s)
	}
	c.Deliver(now, &Segment{Flags: RST | ACK, Ack: ourISS + 1, Scale: -1})
	if !c.Closed() || !errors.Is(c.Err(), ErrRefused) {
		t.Error(c.State(), c.Err())
	}
}

// dial returns a connection from Dial whose SYN is sent.
func dial(t *testing.T, edit func(*Options)) (*script, sentRun) {
	t.Helper()
	o := Options{MSS: testMSS, ISS: ourISS, Congestion: fixed(1<<20, 64<<10), SendLimit: 1 << 20, ReceiveLimit: 1 << 20}
	if edit != nil {
		edit(&o)
	}
	s := &script{t: t, now: time.Minute}
	s.c = Dial(s.now, o)
	return s, s.next("Dial", Segment{Flags: SYN})
}

// synACK returns the answer of a peer that accepts.
func synACK() Segment {
	return Segment{Seq: peerISS, Ack: ourISS + 1, Flags: SYN | ACK, Window: 3000, MSS: 900, Scale: 7, SACKPermitted: true}
}

// TestDialOptions: the SYN offers all options, its window is not scaled, and only those options count that the peer
// agrees to.
func TestDialOptions(t *testing.T) {
	for _, agreed := range []bool{true, false} {
		s, syn := dial(t, func(o *Options) { o.TimestampOffset = 77 })
		if syn.MSS != testMSS || syn.Scale != ownScale || !syn.SACKPermitted || !syn.Timestamps || syn.TSEcr != 0 || syn.Window != 65535 {
			t.Errorf("SYN: %+v", syn)
		}
		s.pass(30 * time.Millisecond)
		answer := synACK()
		if agreed {
			answer.Timestamps, answer.TSVal, answer.TSEcr = true, 5, syn.TSVal
		} else {
			answer.Scale, answer.SACKPermitted, answer.MSS = -1, false, 0
		}
		g := s.one("SYN-ACK", s.in(answer), ACK)
		if g.Timestamps != agreed || agreed && g.TSEcr != 5 || g.ackTo != 0 || g.from != 0 {
			t.Errorf("acknowledgement: %+v", g)
		}
		if rtt := s.c.Stats().RTT; s.c.State() != Established || rtt != 30*time.Millisecond {
			t.Errorf("%v, round-trip time %v", s.c.State(), rtt)
		}
		out := s.write(10_000)
		size := 0
		for _, x := range out {
			size += len(x.data)
		}
		want := defaultMSS
		if agreed {
			want = 900 - timestampsSize
		}
		if len(out) == 0 || out[0].mss != want || size > 3000 { // the window of a SYN-ACK is not scaled
			t.Errorf("%d bytes in segments of %v, want %d", size, out, want)
		}
		if out = s.in(s.data(100, 10)); (out[0].Blocks > 0) != agreed {
			t.Errorf("SACK blocks after an early segment: %v", out)
		}
	}
}

// TestDialTimeout: the SYN is repeated with growing pauses. After the handshake's time the attempt is over, and nothing
// is sent: there is nothing to reset.
func TestDialTimeout(t *testing.T) {
	s, syn := dial(t, nil)
	start := s.now
	out, times := s.wait(2 * time.Minute)
	var at []time.Duration
	for i, g := range out {
		if g.Flags != SYN || g.Seq != syn.Seq {
			t.Fatalf("sent %v", g)
		}
		at = append(at, times[i]-start)
	}
	want := []time.Duration{time.Second, 3 * time.Second, 7 * time.Second, 15 * time.Second, 31 * time.Second}
	if !slices.Equal(at, want) {
		t.Errorf("SYNs after %v, want %v", at, want)
	}
	if !s.c.Closed() || !errors.Is(s.c.Err(), ErrTimeout) {
		t.Errorf("%v, error %v", s.c.State(), s.c.Err())
	}
}

// TestDialRepeated: a SYN-ACK for a repeated SYN is no measurement, and a repeated SYN-ACK is acknowledged again.
func TestDialRepeated(t *testing.T) {
	s, _ := dial(t, nil)
	s.wait(time.Second)
	s.pass(10 * time.Millisecond)
	s.one("SYN-ACK", s.in(synACK()), ACK)
	if st := s.c.Stats(); st.RTT != 0 || st.RTO != 3*time.Second {
		t.Errorf("round-trip time %v, timeout %v", st.RTT, st.RTO)
	}
	if g := s.one("the SYN-ACK again", s.in(synACK()), ACK); g.ackTo != 0 || s.c.State() != Established {
		t.Errorf("%v in %v", g, s.c.State())
	}
}

// TestDialIgnores: in SYN-SENT, a reset without an acceptable acknowledgement is dropped, and so are segments without SYN
// or with an acknowledgement of something else, which is reset.
func TestDialIgnores(t *testing.T) {
	s, _ := dial(t, nil)
	s.none("a reset without ACK", s.in(Segment{Seq: peerISS, Flags: RST, Scale: -1}))
	s.none("a reset for another segment", s.in(Segment{Ack: ourISS, Flags: RST | ACK, Scale: -1}))
	s.none("data", s.in(Segment{Seq: peerISS, Ack: ourISS + 1, Flags: ACK, Scale: -1, Payload: []byte("data")}))
	if g := s.one("an old acknowledgement", s.in(Segment{Seq: peerISS, Ack: ourISS + 9, Flags: ACK, Scale: -1}), RST); g.Seq != ourISS+9 {
		t.Errorf("%+v", g)
	}
	if s.c.State() != SynSent {
		t.Fatalf("the state is %v", s.c.State())
	}
	s.one("SYN-ACK", s.in(synACK()), ACK)
}

// TestUnreachable: an ICMP error ends only an attempt whose SYN it quotes.
func TestUnreachable(t *testing.T) {
	s, _ := dial(t, nil)
	s.c.Unreachable(ourISS + 1)
	if s.c.Closed() {
		t.Fatal("an error about another segment ended the attempt")
	}
	s.c.Unreachable(ourISS)
	s.none("an error", s.out())
	if !s.c.Closed() || !errors.Is(s.c.Err(), ErrUnreachable) {
		t.Errorf("%v, error %v", s.c.State(), s.c.Err())
	}

	s, _ = dial(t, nil)
	s.in(synACK())
	s.write(100)
	for _, seq := range []uint32{ourISS, ourISS + 1} {
		s.c.Unreachable(seq)
	}
	s = listen(t, nil)
	s.c.Answer(s.now)
	s.out()
	s.c.Unreachable(ourISS)
	if s.c.State() != SynReceived {
		t.Errorf("the state is %v", s.c.State())
	}
}

// TestCrossedSYN: in a simultaneous open each end answers the other's SYN, once lost as well, and a reset ends it.
func TestCrossedSYN(t *testing.T) {
	crossed := Segment{Seq: peerISS, Flags: SYN, Window: 3000, MSS: testMSS, Scale: 7, SACKPermitted: true}
	s, _ := dial(t, nil)
	g := s.one("a SYN", s.in(crossed), SYN|ACK)
	if g.Seq != ourISS || g.ackTo != 0 || s.c.State() != SynReceived {
		t.Errorf("%v in %v", g, s.c.State())
	}
	s.one("the SYN again", s.in(crossed), SYN|ACK)
	answer := synACK()
	s.one("SYN-ACK", s.in(answer), ACK)
	if s.c.State() != Established {
		t.Errorf("the state is %v", s.c.State())
	}

	s, _ = dial(t, nil)
	s.in(crossed)
	s.none("a reset", s.in(Segment{Seq: peerISS + 1, Flags: RST, Scale: -1}))
	if !s.c.Closed() {
		t.Errorf("the state is %v", s.c.State())
	}
}

func TestSimultaneousOpen(t *testing.T) {
	o := Options{MSS: testMSS, Congestion: fixed(1<<20, 64<<10), SendLimit: 1 << 20, ReceiveLimit: 1 << 20}
	p := &pair{now: time.Second}
	for i := range p.ends {
		o.ISS = uint32(1000 * i)
		p.ends[i] = Dial(p.now, o)
	}
	var syn [2]Segment
	for i, c := range p.ends {
		c.Next(p.now, &p.run)
		syn[i], _ = Parse(slices.Clone(p.run.Header))
	}
	p.ends[0].Deliver(p.now, &syn[1])
	p.ends[1].Deliver(p.now, &syn[0])
	p.exchange()
	for _, c := range p.ends {
		if c.State() != Established {
			t.Errorf("the state is %v", c.State())
		}
	}
}

// TestReset: a reset ends the connection only at RCV.NXT. Elsewhere in the window it is challenged.
func TestReset(t *testing.T) {
	for _, c := range []struct {
		name  string
		pos   int64
		ends  bool
		sends bool
	}{
		{"at RCV.NXT", 0, true, false},
		{"in the window", 1, false, true},
		{"at the window's end", 60_000, false, true},
		{"before the window", -1, false, false},
		{"behind the window", 10 << 20, false, false},
	} {
		s := open(t, nil)
		g := s.ack(0)
		g.Flags, g.Seq = RST, s.c.peerSeq(c.pos)
		out := s.in(g)
		if ended := errors.Is(s.c.Err(), ErrReset) && s.c.Closed(); ended != c.ends || (len(out) == 1) != c.sends {
			t.Errorf("%s: ended %v, sent %v", c.name, ended, out)
		}
	}
}

// TestChallengeLimit: challenge ACKs are bounded, and possible again later.
func TestChallengeLimit(t *testing.T) {
	s := open(t, nil)
	g := s.ack(0)
	g.Flags, g.Seq = SYN, 99
	n := 0
	for range 1000 {
		out := s.in(g)
		n += len(out)
		for _, x := range out {
			if x.Flags != ACK || x.ackTo != 0 || x.from != 0 {
				t.Fatalf("a SYN is answered with %v", x)
			}
		}
	}
	if n != maxChallenges {
		t.Errorf("%d challenge ACKs", n)
	}
	s.pass(challengeInterval)
	s.one("a SYN later", s.in(g), ACK)
}

func TestUnacceptableACK(t *testing.T) {
	s := open(t, nil)
	g := s.data(0, 10)
	g.Ack = s.c.seq(1)
	s.one("an acknowledgement of what was not sent", s.in(g), ACK)
	if s.c.in.next != 0 {
		t.Error("its payload was taken")
	}
	g.Ack = s.c.seq(-70_000)
	s.one("an acknowledgement from before the window", s.in(g), ACK)
	if s.c.in.next != 0 {
		t.Error("its payload was taken")
	}
}

func timestamps(_ *Options, syn *Segment) { syn.Timestamps, syn.TSVal = true, 100 }

// TestReorderedTimestamp: a segment that a retransmission has overtaken is taken.
func TestReorderedTimestamp(t *testing.T) {
	s := open(t, timestamps)
	repeated, late := s.data(0, 10), s.data(10, 10)
	repeated.TSVal, late.TSVal = 300, 200
	s.in(repeated, late)
	if n := s.read(); n != 20 || s.c.tsRecent != 300 {
		t.Errorf("read %d bytes, last timestamp %d", n, s.c.tsRecent)
	}
}

func TestPAWS(t *testing.T) {
	s := open(t, timestamps)
	g := s.data(0, 10)
	g.TSVal = s.c.tsRecent - pawsTolerance - 1
	s.one("an old timestamp", s.in(g), ACK)
	if s.c.in.next != 0 {
		t.Error("the payload of an old segment was taken")
	}
	s.pass(pawsAge + time.Hour)
	s.in(g)
	if s.c.in.next != 10 {
		t.Error("an old timestamp counts for ever")
	}
}

// TestTimestampEcho: the echo is that of the segment that an acknowledgement answers first, not of a later or early one.
func TestTimestampEcho(t *testing.T) {
	s := open(t, timestamps)
	s.c.in.quick, s.c.in.lastData = 0, s.now
	first, second := s.data(0, 600), s.data(600, 600)
	first.TSVal, second.TSVal = 200, 300
	s.none("the first of two", s.in(first))
	if g := s.one("the second", s.in(second), ACK); g.TSEcr != 200 {
		t.Errorf("echo %d", g.TSEcr)
	}
	early := s.data(5000, 10)
	early.TSVal = 400
	if g := s.one("an early segment", s.in(early), ACK); g.TSEcr != 200 {
		t.Errorf("echo %d after an early segment", g.TSEcr)
	}
}

func TestDelayedACK(t *testing.T) {
	s := open(t, nil)
	pos := int64(0)
	for range quickACKs {
		s.one("one of the first segments", s.in(s.data(pos, testMSS)), ACK)
		pos += testMSS
	}
	s.none("a segment", s.in(s.data(pos, testMSS)))
	pos += testMSS
	s.one("a second segment", s.in(s.data(pos, testMSS)), ACK)
	pos += testMSS
	s.none("a segment", s.in(s.data(pos, testMSS)))
	pos += testMSS
	start := s.now
	out, times := s.wait(time.Second)
	if s.one("after the delay", out, ACK); times[0]-start != delayedACK {
		t.Errorf("after %v", times[0]-start)
	}
	s.pass(-900 * time.Millisecond) // not idle
	s.none("a segment", s.in(s.data(pos, testMSS)))
	pos += testMSS
	s.one("a merged run", s.in(s.data(pos, 3*testMSS)), ACK)
	pos += 3 * testMSS
	s.one("an early segment", s.in(s.data(pos+testMSS, testMSS)), ACK)
	if g := s.one("the missing segment", s.in(s.data(pos, testMSS)), ACK); g.ackTo != pos+2*testMSS {
		t.Errorf("%v", g)
	}
	pos += 2 * testMSS
	s.none("a segment", s.in(s.data(pos, testMSS)))
	pos += testMSS
	if out := s.write(10); len(out) != 1 || out[0].ackTo != pos {
		t.Errorf("data does not carry the acknowledgement: %v", out)
	}
}

// TestSACKBlocks: a duplicate first, then the ranges that have changed last.
func TestSACKBlocks(t *testing.T) {
	s := open(t, nil)
	block := func(from, to int64) Block { return Block{s.c.peerSeq(from), s.c.peerSeq(to)} }
	want := func(what string, g sentRun, blocks ...Block) {
		t.Helper()
		if !slices.Equal(g.SACK[:g.Blocks], blocks) {
			t.Errorf("%s: blocks %v, want %v", what, g.SACK[:g.Blocks], blocks)
		}
	}
	last := func(segments ...Segment) sentRun {
		out := s.in(segments...)
		return out[len(out)-1]
	}
	last(s.data(0, 100))
	want("three gaps", last(s.data(200, 100), s.data(400, 100), s.data(600, 100)), block(600, 700), block(400, 500), block(200, 300))
	want("a range grows", last(s.data(300, 50)), block(200, 350), block(600, 700), block(400, 500))
	want("a fourth gap", last(s.data(800, 100)), block(800, 900), block(200, 350), block(600, 700), block(400, 500))
	want("a duplicate in a range", last(s.data(420, 10)), block(420, 430), block(400, 500), block(800, 900), block(200, 350))
	want("a duplicate of the start", last(s.data(0, 50)), block(0, 50), block(400, 500), block(800, 900), block(200, 350))
	want("part of a gap", last(s.data(100, 100)), block(400, 500), block(800, 900), block(600, 700))
	if g := last(s.data(350, 450)); g.ackTo != 900 || g.Blocks != 0 {
		t.Errorf("all gaps closed: %v", g)
	}
	if n := s.read(); n != 900 {
		t.Errorf("read %d bytes", n)
	}
}

// TestEarlyBounds: early bytes are bounded by the window, and their ranges by a number.
func TestEarlyBounds(t *testing.T) {
	s := open(t, nil)
	for pos := int64(10); pos < 100_000; pos += 20 {
		s.in(s.data(pos, 10))
	}
	if n := len(s.c.in.early); n != maxEarly {
		t.Errorf("%d early ranges", n)
	}
	s.in(s.data(10<<20, 1000))
	if _, held := s.c.Buffered(); held > 128<<10 {
		t.Errorf("%d bytes held", held)
	}
	s.in(s.data(0, 65_000))
	s.in(s.data(65_000, 1000))
	if n := s.read(); n < 60_000 {
		t.Errorf("read %d bytes", n)
	}
}

// TestWindow: the window closes as bytes wait for the application, its edge never moves back, and it opens in steps.
func TestWindow(t *testing.T) {
	s := open(t, func(o *Options, _ *Segment) { o.ReceiveLimit = 20_000 })
	edge := func(g sentRun) int64 { return g.ackTo + int64(g.Window)<<ownScale }
	pos, last := int64(0), int64(0)
	for range 20 {
		out := s.in(s.data(pos, testMSS))
		pos += testMSS
		if len(out) > 0 {
			if e := edge(out[0]); e <= last-1<<ownScale || e > 20_000+1<<ownScale {
				t.Fatalf("edge %d after %d", e, last)
			}
			last = s.c.in.edge
		}
	}
	s.wait(time.Second)
	if g := s.one("a full buffer", s.in(s.data(pos, testMSS)), ACK); g.Window != 0 {
		t.Fatalf("a full buffer: %v", g)
	}
	pos = s.c.in.next
	s.c.SetLimits(1000, 1000)
	if g := s.one("a probe", s.in(s.data(pos-1, 1)), ACK); edge(g) <= last-1<<ownScale || s.c.in.edge < last {
		t.Errorf("a smaller limit moves the edge back to %d", edge(g))
	}
	s.c.SetLimits(20_000, 20_000)
	s.c.Consume(s.now, 100)
	s.none("a crumb of room", s.out())
	s.c.Consume(s.now, 5000)
	if g := s.next("room", Segment{Flags: ACK}); edge(g) < 25_000-1000 {
		t.Errorf("edge %d", edge(g))
	}
}

// TestWindowOfBytes: segments of single bytes do not move the edge.
func TestWindowOfBytes(t *testing.T) {
	s := open(t, func(o *Options, _ *Segment) { o.ReceiveLimit = 10_000 })
	for pos := range int64(12_000) {
		s.in(s.data(pos, 1))
	}
	if n := s.read(); n > 10_000+1<<ownScale {
		t.Errorf("%d bytes were taken", n)
	}
}

// TestWindowTuning: the window grows with the bytes that are consumed in a round-trip time, up to the limit, and not for an
// application that does not read.
func TestWindowTuning(t *testing.T) {
	s := open(t, func(o *Options, _ *Segment) { o.ReceiveLimit = 4 << 20 })
	pos := int64(0)
	for round := range 12 {
		for n := 10 << min(round, 9); n > 0; n-- {
			s.in(s.data(pos, testMSS))
			pos += testMSS
			s.read()
		}
		s.pass(50 * time.Millisecond)
	}
	if w := s.c.Stats().ReceiveWindow; w < 1<<20 {
		t.Errorf("the window is %d after 12 rounds of slow start", w)
	}
	tuned := s.c.Stats().ReceiveWindow
	s.c.SetLimits(1<<20, 10_000)
	if w := s.c.Stats().ReceiveWindow; w != 10_000 {
		t.Errorf("the window is %d with a limit of 10,000", w)
	}
	s.c.SetLimits(1<<20, 4<<20)
	if w := s.c.Stats().ReceiveWindow; w != tuned {
		t.Errorf("the window is %d after a smaller limit, and was %d", w, tuned)
	}
	idle := open(t, func(o *Options, _ *Segment) { o.ReceiveLimit = 4 << 20 })
	for pos := int64(0); pos < 100_000; pos += testMSS {
		idle.in(idle.data(pos, testMSS))
		idle.pass(10 * time.Millisecond)
	}
	if w := idle.c.Stats().ReceiveWindow; w != initialWindow {
		t.Errorf("the window is %d though nothing was read", w)
	}
}

// TestPersist: a closed window is probed for as long as the peer answers, and no longer than GiveUp without.
func TestPersist(t *testing.T) {
	s := open(t, nil)
	g := s.ack(0)
	g.Window = 0
	s.in(g)
	s.none("a closed window", s.write(100))
	probes := 0
	for start := s.now; s.now-start < 3*time.Hour; {
		out, _ := s.wait(time.Second)
		for _, x := range out {
			if x.from != -1 || len(x.data) != 0 || x.Flags != ACK {
				t.Fatalf("probe %v", x)
			}
			probes++
			s.none("an answer", s.in(g))
		}
	}
	if s.c.Closed() || probes < 180 || probes > 250 {
		t.Fatalf("after three hours: %v, %d probes", s.c.State(), probes)
	}
	g.Window = 1
	if out := s.in(g); len(out) != 1 || len(out[0].data) != 100 {
		t.Errorf("the window opens: %v", out)
	}
	g = s.ack(100)
	g.Window = 0
	s.in(g)
	s.none("a closed window", s.write(100))
	s.wait(2 * defaultGiveUp)
	if !errors.Is(s.c.Err(), ErrTimeout) {
		t.Fatalf("without answers: %v, %v", s.c.State(), s.c.Err())
	}
}

// TestGiveUp: data that is not acknowledged is sent again with growing pauses, for GiveUp.
func TestGiveUp(t *testing.T) {
	s := open(t, nil)
	s.write(100)
	start := s.now
	out, times := s.wait(time.Hour)
	if !errors.Is(s.c.Err(), ErrTimeout) || s.c.State() != Closed {
		t.Fatal(s.c.State(), s.c.Err())
	}
	if n := len(out); n < 20 || n > 30 {
		t.Errorf("sent %d times", n)
	}
	for i := 2; i < len(times); i++ {
		if gap := times[i] - times[i-1]; gap > maxRTO || i > 3 && gap < times[i-1]-times[i-2] {
			t.Errorf("pause %v after %v", gap, times[i-1]-times[i-2])
		}
	}
	if last := times[len(times)-1] - start; last > defaultGiveUp || last < defaultGiveUp-maxRTO {
		t.Errorf("the last after %v", last)
	}
}

// TestPausedReceiver: a receiver that closes its window with data in flight is not given up while it answers.
func TestPausedReceiver(t *testing.T) {
	s := open(t, nil)
	s.write(3000)
	g := s.ack(1000)
	g.Window = 0
	s.in(g)
	for start := s.now; s.now-start < time.Hour; {
		if out, _ := s.wait(time.Second); len(out) > 0 {
			s.in(g)
		}
	}
	if s.c.Closed() {
		t.Fatal(s.c.Err())
	}
	g.Window = 512
	out := s.in(g)
	more, _ := s.wait(maxRTO)
	if out = append(out, more...); len(out) == 0 || out[len(out)-1].to != 3000 {
		t.Errorf("after the pause: %v", out)
	}
}

func TestKeepalive(t *testing.T) {
	keepalive := func(o *Options, _ *Segment) { o.Keepalive = Keepalive{2 * time.Hour, 75 * time.Second, 9} }
	s := open(t, keepalive)
	for range 10 {
		start := s.now
		out, times := s.wait(2*time.Hour + time.Second)
		if g := s.one("a probe", out, ACK); times[0]-start > 2*time.Hour || g.from != -1 {
			t.Fatalf("%v after %v", g, times[0]-start)
		}
		s.none("the answer", s.in(s.ack(0)))
	}
	start := s.now
	out, times := s.wait(4 * time.Hour)
	if len(out) != 10 || out[9].Flags&RST == 0 || !errors.Is(s.c.Err(), ErrKeepalive) {
		t.Fatalf("sent %v, error %v", out, s.c.Err())
	}
	if d := times[9] - start; d != 2*time.Hour+9*75*time.Second {
		t.Errorf("given up after %v", d)
	}

	s = open(t, keepalive)
	s.write(100)
	if out, _ := s.wait(10 * time.Second); len(out) == 0 || out[0].from != 0 {
		t.Errorf("data in flight: %v", out)
	}

	s = open(t, nil)
	out, _ = s.wait(24 * time.Hour)
	s.none("without keepalive", out)
}

// TestKeepaliveAnswer: a probe of the peer is answered.
func TestKeepaliveAnswer(t *testing.T) {
	s := open(t, nil)
	s.in(s.data(0, 10))
	g := s.ack(0)
	g.Seq--
	s.one("an empty probe", s.in(g), ACK)
	g.Payload = []byte{0}
	s.one("a probe with a byte", s.in(g), ACK)
	if n := s.read(); n != 10 {
		t.Errorf("read %d bytes", n)
	}
}

func TestHalfClose(t *testing.T) {
	s := open(t, nil)
	s.write(10)
	s.c.CloseWrite(s.now)
	if g := s.next("CloseWrite", Segment{Flags: FIN | ACK}); g.from != 10 || g.to != 11 {
		t.Errorf("%v", g)
	}
	s.in(s.ack(11))
	if s.c.State() != FinWait2 || s.c.Unacked() {
		t.Fatal(s.c.State())
	}
	s.in(s.data(0, 500))
	if n := s.read(); n != 500 {
		t.Errorf("read %d bytes after the own end", n)
	}
	g := s.ack(11)
	g.Flags |= FIN
	s.one("the peer's end", s.in(g), ACK)
	if s.c.State() != TimeWait || !s.c.ReceivedFIN() || !s.c.Replaceable() {
		t.Fatal(s.c.State())
	}
	s.pass(time.Second)
	g.Seq = s.c.peerSeq(500)
	s.one("a repeated FIN", s.in(g), ACK)
	start := s.now
	out, _ := s.wait(time.Hour)
	s.none("TIME-WAIT", out)
	if !s.c.Closed() || s.c.Err() != nil || s.c.stateAt-start > timeWait {
		t.Error(s.c.State(), s.c.Err())
	}
}

func TestPassiveClose(t *testing.T) {
	s := open(t, nil)
	g := s.data(0, 10)
	g.Flags |= FIN
	s.one("data with FIN", s.in(g), ACK)
	if s.c.State() != CloseWait || !s.c.ReceivedFIN() || s.read() != 10 {
		t.Fatal(s.c.State())
	}
	s.write(100)
	s.c.CloseWrite(s.now)
	s.next("CloseWrite", Segment{Flags: FIN | ACK})
	if s.c.State() != LastAck {
		t.Fatal(s.c.State())
	}
	s.in(s.ack(101))
	if !s.c.Closed() || s.c.Err() != nil {
		t.Error(s.c.State(), s.c.Err())
	}
}

func TestSimultaneousClose(t *testing.T) {
	s := open(t, nil)
	s.c.CloseWrite(s.now)
	s.next("CloseWrite", Segment{Flags: FIN | ACK})
	g := s.ack(0)
	g.Flags |= FIN
	s.one("the peer's FIN", s.in(g), ACK)
	if s.c.State() != Closing {
		t.Fatal(s.c.State())
	}
	s.in(s.ack(1))
	if s.c.State() != TimeWait {
		t.Error(s.c.State())
	}
}

// TestEarlyFIN: a FIN that arrives before the bytes in front of it ends the stream after them.
func TestEarlyFIN(t *testing.T) {
	s := open(t, nil)
	g := s.data(100, 10)
	g.Flags |= FIN
	s.in(g)
	if s.c.ReceivedFIN() {
		t.Fatal("the end is reported before the bytes")
	}
	if g := s.one("the missing bytes", s.in(s.data(0, 100)), ACK); g.ackTo != 111 {
		t.Errorf("%v", g)
	}
	if !s.c.ReceivedFIN() || s.read() != 110 {
		t.Error("not all has arrived")
	}
}

// TestDataAfterRelease: bytes that arrived before an orderly end can be read after it.
func TestDataAfterRelease(t *testing.T) {
	s := open(t, nil)
	g := s.data(0, 50_000)
	g.Flags |= FIN
	s.in(g)
	s.c.CloseWrite(s.now)
	s.out()
	s.in(s.ack(1))
	if !s.c.Closed() {
		t.Fatal(s.c.State())
	}
	if n := s.read(); n != 50_000 {
		t.Errorf("read %d bytes", n)
	}
	if send, receive := s.c.Buffered(); send+receive != 0 {
		t.Errorf("%d, %d bytes are held", send, receive)
	}
}

// TestAbort: the reset has the sequence number of the next byte, and frees all memory. A peer that has not received all
// bytes answers with an acknowledgement, and the reset for that is exact.
func TestAbort(t *testing.T) {
	s := open(t, nil)
	s.write(5000)
	s.in(s.data(100, 50_000))
	s.c.Abort(s.now)
	if g := s.next("Abort", Segment{Flags: RST | ACK}); g.from != 5000 {
		t.Errorf("%v", g)
	}
	if send, receive := s.c.Buffered(); send+receive != 0 {
		t.Errorf("%d, %d bytes are held", send, receive)
	}
	challenge := Segment{Flags: ACK, Seq: peerISS + 1, Ack: ourISS + 1 + 2000, Scale: -1}
	header, ok := ResetFor(&challenge)
	if r, _ := Parse(header); !ok || r.Flags != RST || r.Seq != challenge.Ack {
		t.Errorf("%v %+v", ok, r)
	}
}

// TestRun: one header for many segments, and no waiting for more bytes.
func TestRun(t *testing.T) {
	s := open(t, timestamps)
	s.write(0)
	out := s.write(10_500)
	if len(out) != 1 || len(out[0].data) != 10_500 || out[0].mss != testMSS-timestampsSize || out[0].Flags != ACK|PSH {
		t.Fatalf("sent %v", out)
	}
	if out := s.write(1); len(out) != 1 || len(out[0].data) != 1 {
		t.Errorf("a byte with others in flight: %v (Nagle)", out)
	}
	s.in(s.ack(10_501))
	if out := s.write(60_000); len(out) != 1 || out[0].Flags != ACK|PSH {
		t.Errorf("%v", out)
	}
}

// TestSenderSillyWindow: a window that is smaller than a segment is not filled, unless it is half of the largest, or stays.
func TestSenderSillyWindow(t *testing.T) {
	s := open(t, func(_ *Options, syn *Segment) { syn.Scale = 0 })
	g := s.ack(0)
	g.Window = 10_000
	s.in(g)
	g.Window = 300
	s.in(g)
	s.none("a small window", s.write(5000))
	out, _ := s.wait(time.Second)
	if len(out) == 0 || len(out[0].data) != 300 {
		t.Errorf("a window that stays small: %v", out)
	}
}

func TestTailLossProbe(t *testing.T) {
	s := open(t, nil)
	s.write(3000)
	start := s.now
	out, times := s.wait(190 * time.Millisecond)
	if len(out) != 1 || out[0].from != 2000 || out[0].to != 3000 {
		t.Fatalf("the probe: %v", out)
	}
	if d := times[0] - start; d < 100*time.Millisecond || d > 120*time.Millisecond {
		t.Errorf("after %v, with a round-trip time of 50 ms", d)
	}
	out = s.in(s.sacks(s.ack(0), 2000, 3000))
	more, _ := s.wait(20 * time.Millisecond)
	if out = append(out, more...); len(out) != 1 || out[0].from != 0 || out[0].to != 2000 {
		t.Errorf("the probe arrived: %v", out)
	}
	if s.c.Stats().Timeouts != 0 {
		t.Error("a timeout")
	}
}

// TestRACK: a record is lost once one that was sent later is delivered, after a quarter of the round-trip time, or at once
// if three segments are.
func TestRACK(t *testing.T) {
	s := open(t, nil)
	s.write(1000)
	s.pass(time.Millisecond)
	s.write(1000)
	s.pass(50 * time.Millisecond)
	s.none("one later segment arrived", s.in(s.sacks(s.ack(0), 1000, 2000)))
	out, times := s.wait(100 * time.Millisecond)
	if len(out) == 0 || out[0].from != 0 || out[0].to != 1000 {
		t.Fatalf("sent %v", out)
	}
	if d := times[0] - (s.now - 100*time.Millisecond); d > 13*time.Millisecond {
		t.Errorf("after %v", d)
	}

	s = open(t, nil)
	s.write(5000)
	s.pass(50 * time.Millisecond)
	if out := s.in(s.sacks(s.ack(0), 1000, 4000)); len(out) != 1 || out[0].from != 0 || out[0].to != 1000 {
		t.Errorf("three later segments arrived: %v", out)
	}
}

// TestReordering: after reordering was seen, a late segment is not taken for lost, and a D-SACK widens the tolerance.
func TestReordering(t *testing.T) {
	s := open(t, nil)
	s.write(6000)
	s.pass(50 * time.Millisecond)
	s.in(s.sacks(s.ack(0), 1000, 2000))
	s.pass(5 * time.Millisecond)
	s.in(s.ack(6000))
	if !s.c.rack.reordering {
		t.Fatal("reordering was not noticed")
	}
	s.write(6000)
	s.pass(50 * time.Millisecond)
	s.none("a late segment", s.in(s.sacks(s.ack(6000), 7000, 12_000)))
	s.pass(5 * time.Millisecond)
	s.none("it arrives", s.in(s.ack(12_000)))
	if n := s.c.Stats().Retransmissions; n != 0 {
		t.Errorf("%d retransmissions", n)
	}
	before := s.c.reorderWindow()
	s.write(6000)
	s.pass(50 * time.Millisecond)
	s.in(s.sacks(s.ack(12_000), 13_000, 18_000))
	s.wait(15 * time.Millisecond)
	s.in(s.ack(18_000))
	s.in(s.sacks(s.ack(18_000), 12_000, 13_000))
	if after := s.c.reorderWindow(); after <= before {
		t.Errorf("the window was %v and is %v after a D-SACK", before, after)
	}
	if s.c.Stats().Undone != 1 {
		t.Error("the recovery was not undone")
	}
}

// TestSpuriousTimeout: timestamps show that a timeout was not justified: the rest is not sent again.
func TestSpuriousTimeout(t *testing.T) {
	s := open(t, timestamps)
	s.write(10_000)
	stamp := s.c.timestamp(s.now)
	// A probe, then the timeout.
	for s.c.Stats().Timeouts == 0 {
		s.wait(10 * time.Millisecond)
	}
	g := s.ack(testMSS)
	g.TSEcr = stamp
	s.none("the acknowledgement of the first transmission", s.in(g))
	if st := s.c.Stats(); st.Undone != 1 || s.c.board.lost != 0 {
		t.Errorf("%+v", st)
	}
	if err := s.c.check(); err != nil {
		t.Error(err)
	}
}

// TestTrueTimeout: an answer to the retransmission is no such evidence.
func TestTrueTimeout(t *testing.T) {
	s := open(t, timestamps)
	s.write(10_000)
	for s.c.Stats().Timeouts == 0 {
		s.wait(10 * time.Millisecond)
	}
	s.wait(10 * time.Millisecond)
	s.in(s.ack(10_000))
	if st := s.c.Stats(); st.Undone != 0 {
		t.Errorf("%+v", st)
	}
}

// recoveries counts the recoveries that a congestion control is told of.
type recoveries struct {
	*fixedWindow
	begun, ended int
}

func (r *recoveries) Timeout(time.Duration, int)       { r.begun++ }
func (r *recoveries) EnterRecovery(time.Duration, int) { r.begun++ }
func (r *recoveries) ExitRecovery(time.Duration)       { r.ended++ }

// TestTimeoutRecovery: the congestion control learns of the end of a recovery that a timeout began.
func TestTimeoutRecovery(t *testing.T) {
	r := &recoveries{fixedWindow: &fixedWindow{20 * testMSS, 10 * testMSS}}
	s := open(t, func(o *Options, g *Segment) {
		timestamps(o, g)
		o.Congestion = func(int) congestion.Controller { return r }
	})
	s.write(10_000)
	for s.c.Stats().Timeouts == 0 {
		s.wait(10 * time.Millisecond)
	}
	s.wait(10 * time.Millisecond)
	s.in(s.ack(10_000))
	if r.begun != 1 || r.ended != 1 {
		t.Errorf("%d recoveries begun, %d ended", r.begun, r.ended)
	}
}

// TestReneging: bytes that a peer has reported and does not acknowledge are sent again after a timeout.
func TestReneging(t *testing.T) {
	s := open(t, nil)
	s.write(3000)
	s.in(s.sacks(s.ack(0), 1000, 3000))
	s.in(s.ack(1000))
	sent := int64(0)
	out, _ := s.wait(3 * time.Second)
	for _, x := range out {
		if x.from == 1000 {
			sent = max(sent, x.to)
		}
	}
	if sent != 3000 {
		t.Errorf("sent %v", out)
	}
}

// TestHostileSACK: blocks of single bytes cause a bounded number of records.
func TestHostileSACK(t *testing.T) {
	s := open(t, func(o *Options, _ *Segment) { o.Congestion = fixed(8<<20, 64<<10); o.SendLimit = 8 << 20 })
	g := s.ack(0)
	g.Window = 65535
	s.in(g)
	s.write(2 << 20)
	for pos := int64(10); pos < 100_000; pos += 8 {
		g := s.sacks(s.ack(0), pos, pos+1, pos+2, pos+3, pos+4, pos+5, pos+6, pos+7)
		s.c.Deliver(s.now, &g)
		if n := s.c.board.len(); n > maxRecords {
			t.Fatalf("%d records", n)
		}
	}
	if err := s.c.check(); err != nil {
		t.Fatal(err)
	}
	s.in(s.ack(2 << 20))
	if s.c.board.len() != 0 {
		t.Error("records are left")
	}
}

// TestRecordsFollowTheBytes: few bytes in flight have few records, whatever the peer reports and however
// small the writes are.
func TestRecordsFollowTheBytes(t *testing.T) {
	s := open(t, func(o *Options, _ *Segment) { o.Congestion = fixed(1<<20, 64<<10) })
	s.write(16 << 10)
	for pos := int64(10); pos < 16<<10-8; pos += 8 {
		g := s.sacks(s.ack(0), pos, pos+1, pos+2, pos+3, pos+4, pos+5, pos+6, pos+7)
		s.c.Deliver(s.now, &g)
	}
	if n := s.c.board.len(); n > 120 {
		t.Errorf("16 KiB have %d records", n)
	}
	s.in(s.ack(16 << 10))

	const writes = 5000
	sent := int64(16 << 10)
	for range writes {
		s.write(1)
		if n := s.c.board.len(); n > 120 {
			t.Fatalf("single bytes have %d records", n)
		}
	}
	for end := sent + writes; sent < end; {
		out := s.in(s.ack(s.c.nxt))
		if len(out) == 0 {
			t.Fatalf("sent %d of %d bytes", s.c.nxt, end)
		}
		sent = s.c.nxt
	}
}

// TestFastRetransmitWithoutSACK: three duplicate acknowledgements.
func TestFastRetransmitWithoutSACK(t *testing.T) {
	s := open(t, func(_ *Options, syn *Segment) { syn.SACKPermitted = false })
	s.write(10_000)
	s.pass(50 * time.Millisecond)
	out := s.in(s.ack(0), s.ack(0), s.ack(0), s.ack(0))
	if len(out) != 1 || out[0].from != 0 || out[0].to != 1000 {
		t.Errorf("sent %v", out)
	}
	if out := s.in(s.ack(3000)); len(out) != 1 || out[0].from != 3000 || out[0].to != 4000 {
		t.Errorf("a partial acknowledgement: %v", out)
	}
}

// TestSmallerMTU: segments that are larger than the path takes are sent again at once, in smaller ones.
func TestSmallerMTU(t *testing.T) {
	s := open(t, nil)
	s.write(5000)
	if !s.c.InFlight(s.c.seq(4999)) || s.c.InFlight(s.c.seq(5000)) || s.c.InFlight(s.c.seq(-1)) {
		t.Error("InFlight is wrong")
	}
	s.c.SetMSS(s.now, 500)
	out := s.out()
	if len(out) != 1 || len(out[0].data) != 5000 || out[0].mss != 500 {
		t.Fatalf("sent %v", out)
	}
	s.c.SetMSS(s.now, 500)
	s.none("the same again", s.out())
	s.c.SetMSS(s.now, 1)
	if s.c.segmentSize() < minMSS-timestampsSize {
		t.Errorf("segments of %d bytes", s.c.segmentSize())
	}
}

// TestUrgent: the pointer marks the byte after the urgent one in all segments up to it, also if the window is closed.
func TestUrgent(t *testing.T) {
	s := open(t, nil)
	g := s.ack(0)
	g.Window = 0
	s.in(g)
	s.none("a closed window", s.write(10))
	s.c.MarkUrgent()
	if x := s.next("the mark", Segment{Flags: ACK | URG}); x.from != 0 || x.Urgent != 10 {
		t.Errorf("%v %d", x, x.Urgent)
	}
	b := s.c.Buffer(10)
	s.c.Commit(s.now, copy(b, stream(10, 10)))
	g.Window = 512
	out := s.in(g)
	if len(out) != 1 || out[0].Flags&URG == 0 || out[0].Urgent != 10 || len(out[0].data) != 20 {
		t.Fatalf("sent %v", out)
	}
	s.in(s.ack(20))
	if out := s.write(10); len(out) != 1 || out[0].Flags&URG != 0 {
		t.Errorf("after the mark: %v", out)
	}
}

func TestUrgentRun(t *testing.T) {
	s := open(t, nil)
	b := s.c.Buffer(2500)
	s.c.Commit(s.now, copy(b, stream(0, 2500)))
	s.c.MarkUrgent()
	out := s.out()
	if len(out) != 3 {
		t.Fatalf("sent %v", out)
	}
	for _, x := range out {
		if x.Flags&URG == 0 || x.from+int64(x.Urgent) != 2500 {
			t.Errorf("%v %d", x, x.Urgent)
		}
	}
}

func TestUrgentReceived(t *testing.T) {
	s := open(t, nil)
	g := s.data(0, 10)
	g.Flags |= URG
	g.Urgent = 20
	s.in(g)
	if at, ok := s.c.UrgentMark(); !ok || at != 19 {
		t.Errorf("the mark is at %d, %v", at, ok)
	}
	s.in(s.data(10, 20))
	s.c.Consume(s.now, 19)
	if at, ok := s.c.UrgentMark(); !ok || at != 0 {
		t.Errorf("the mark is at %d, %v", at, ok)
	}
	s.c.Consume(s.now, 1)
	if _, ok := s.c.UrgentMark(); ok {
		t.Error("the mark stays")
	}
	g = s.data(30, 10)
	g.Flags |= URG
	g.Urgent = 2
	s.in(g)
	g = s.data(40, 10)
	g.Flags |= URG
	g.Urgent = 2
	s.in(g)
	if at, ok := s.c.UrgentMark(); !ok || at != 41-20 {
		t.Errorf("a second mark: %d, %v", at, ok)
	}
}

// TestDirect: payload that is next is not copied, and the rest of it is kept.
func TestDirect(t *testing.T) {
	s := open(t, nil)
	deliver := func(pos int64, n, take int) {
		t.Helper()
		g := s.data(pos, n)
		s.c.DeliverDirect(s.now, &g)
		if _, held := s.c.Buffered(); held != 0 {
			t.Errorf("%d bytes are copied", held)
		}
		if p := s.c.Peek(); len(p) != 1 || &p[0][0] != &g.Payload[0] {
			t.Error("Peek returns a copy")
		}
		s.c.Consume(s.now, take)
		s.c.Keep()
		clear(g.Payload)
		s.out()
	}
	deliver(0, 500, 500)
	deliver(500, 500, 200)
	g := s.data(1000, 500)
	s.c.DeliverDirect(s.now, &g)
	if n := s.read(); n != 800 {
		t.Errorf("read %d bytes", n)
	}
	s.c.Keep()
	deliver(1500, 500, 0)
	if n := s.read(); n != 500 {
		t.Errorf("read %d bytes", n)
	}
	early := s.data(2500, 500)
	s.c.DeliverDirect(s.now, &early)
	s.c.Keep()
	clear(early.Payload)
	g = s.data(2000, 500)
	s.c.DeliverDirect(s.now, &g)
	s.c.Keep()
	clear(g.Payload)
	if n := s.read(); n != 1000 {
		t.Errorf("read %d bytes around a gap", n)
	}
}

// TestIdleMemory: an idle connection holds no memory for bytes, and a few bytes in flight hold little.
func TestIdleMemory(t *testing.T) {
	s := open(t, nil)
	for pos := int64(0); pos < 500_000; pos += testMSS {
		s.in(s.data(pos, testMSS))
		s.read()
	}
	b := s.c.Buffer(64 << 10)
	s.c.Commit(s.now, copy(b, stream(0, 100)))
	if send, _ := s.c.Buffered(); send > 4<<10 {
		t.Errorf("%d bytes are held for 100", send)
	}
	s.out()
	s.in(s.ack(100))
	if send, receive := s.c.Buffered(); send+receive != 0 {
		t.Errorf("%d, %d bytes are held", send, receive)
	}
	if s.c.board.first != nil || s.c.in.early != nil || len(s.c.board.records) != 0 {
		t.Error("records are left")
	}
}

// TestBufferDuringACK: the memory of Buffer stays valid while acknowledgements free the bytes in front of it.
func TestBufferDuringACK(t *testing.T) {
	s := open(t, nil)
	s.write(100)
	b := s.c.Buffer(1000)
	s.in(s.ack(100))
	other := open(t, nil)
	other.write(4000) // would take a block that was freed too early
	s.c.Commit(s.now, copy(b, stream(100, 1000)))
	if out := s.out(); len(out) != 1 || !bytes.Equal(out[0].data, stream(100, len(b))) {
		t.Errorf("sent %v", out)
	}
	s.c.Buffer(1000)
	s.in(s.ack(100 + int64(len(b))))
	s.c.Commit(s.now, 0)
	if send, _ := s.c.Buffered(); send != 0 {
		t.Errorf("%d bytes are held", send)
	}
	for _, before := range []int{0, 100} { // a block of its own, and the rest of the last
		s := open(t, nil)
		s.write(before)
		b := s.c.Buffer(1000)
		g := s.ack(0)
		g.Flags = RST
		s.in(g)
		other := open(t, nil)
		for range 10 {
			other.write(4000)
		}
		clear(b)
		if out := other.in(other.sacks(other.ack(0), 4000, 40_000)); len(out) == 0 || !bytes.Equal(out[0].data, stream(0, 4000)) {
			t.Errorf("the memory of a connection that ended belongs to another: %v", out)
		}
		s.c.Commit(s.now, len(b))
	}
}

// TestRoom: the buffer takes as much as the path can use, not all that the limit allows.
func TestRoom(t *testing.T) {
	s := open(t, func(o *Options, _ *Segment) { o.Congestion = fixed(100_000, 64<<10); o.SendLimit = 1 << 20 })
	wide := s.ack(0)
	wide.Window = 5000 // times 128
	s.in(wide)
	if n := s.c.Room(); n != 200_000 {
		t.Errorf("room for %d bytes", n)
	}
	closed, opened := s.ack(0), s.ack(0)
	closed.Window, opened.Window = 0, 5000
	s.in(closed)
	if n := s.c.Room(); n != minRoom/2 {
		t.Errorf("room for %d bytes behind a closed window", n)
	}
	s.in(opened)
	s.c.SetLimits(1000, 1000)
	if n := s.c.Room(); n != 1000 {
		t.Errorf("room for %d bytes", n)
	}
	s.write(1000)
	if n := s.c.Room(); n != 0 {
		t.Errorf("room for %d bytes", n)
	}
}

// TestRoomBehindWindow: a window that opens step by step never runs dry.
func TestRoomBehindWindow(t *testing.T) {
	s := open(t, nil)
	g := s.ack(0)
	g.Window = 5000 // times 128
	s.in(g)
	for s.c.Room() > 0 {
		s.write(s.c.Room())
	}
	for acked := int64(0); acked < 2_000_000; {
		acked += 20_000
		g := s.ack(acked)
		g.Window = 5000
		s.in(g)
		for s.c.Room() > 0 {
			s.write(s.c.Room())
		}
		if unused := s.c.edge - s.c.nxt; unused >= testMSS {
			t.Fatalf("%d bytes of the window are unused, room for %d", unused, s.c.Room())
		}
	}
}

// TestResetFor: the answer of a host without the connection.
func TestResetFor(t *testing.T) {
	for _, c := range []struct {
		in, want Segment
	}{
		{Segment{Seq: 5, Flags: SYN, Payload: make([]byte, 3)}, Segment{Flags: RST | ACK, Ack: 9}},
		{Segment{Seq: 5, Ack: 77, Flags: ACK}, Segment{Flags: RST, Seq: 77}},
		{Segment{Seq: 5, Ack: 77, Flags: FIN | ACK}, Segment{Flags: RST, Seq: 77}},
	} {
		h, ok := ResetFor(&c.in)
		got, err := Parse(h)
		if err != nil || !ok || got.Flags != c.want.Flags || got.Seq != c.want.Seq || got.Ack != c.want.Ack {
			t.Errorf("%+v: %+v", c.in, got)
		}
	}
	if _, ok := ResetFor(&Segment{Flags: RST}); ok {
		t.Error("a reset is answered")
	}
}
