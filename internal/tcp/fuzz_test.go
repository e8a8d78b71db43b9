package tcp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"subnetrouter/internal/tcp/congestion"
)

// FuzzParse: Parse returns its error or a segment, and a header that is built from the segment parses to the same.
func FuzzParse(f *testing.F) {
	s := Segment{Seq: 1, Ack: 2, Flags: SYN | ACK, Window: 3, MSS: 1240, Scale: 8, SACKPermitted: true, Timestamps: true, TSVal: 4, TSEcr: 5}
	f.Add(s.appendHeader(nil))
	s = Segment{Flags: ACK, Scale: -1, Timestamps: true, Blocks: 3, SACK: [4]Block{{1, 2}, {3, 4}, {5, 6}}}
	f.Add(append(s.appendHeader(nil), "payload"...))
	f.Add([]byte{12: 0xf0, 59: 1, 20: optSACK, 34, 54: optScale})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Parse(b)
		if err != nil {
			return
		}
		if s.Scale > maxScale || s.Blocks < 0 || s.Blocks > maxBlocks || len(s.Payload) > len(b)-headerSize {
			t.Fatalf("%+v", s)
		}
		if n := len(s.appendHeader(nil)); n > maxHeaderSize {
			return // more options than any segment of ours has
		}
		again, err := Parse(append(s.appendHeader(nil), s.Payload...))
		if err != nil || !bytes.Equal(again.Payload, s.Payload) {
			t.Fatalf("%+v: %v", again, err)
		}
		s.Payload, again.Payload = nil, nil
		if s.Blocks < maxBlocks {
			clear(s.SACK[s.Blocks:])
		}
		if fmt.Sprint(s) != fmt.Sprint(again) {
			t.Fatalf("%+v\n%+v", s, again)
		}
		if h, ok := ResetFor(&s); ok == (s.Flags&RST != 0) || ok && len(h) != headerSize {
			t.Fatal(ok, len(h))
		}
	})
}

// FuzzConversation drives a connection with segments that are near the valid ones or arbitrary, and with calls of the
// application, and checks all invariants after each.
func FuzzConversation(f *testing.F) {
	for seed := range uint64(4) {
		f.Add(program(seed, 400))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := converse(b); err != nil {
			t.Fatal(err)
		}
	})
}

// TestConversation runs random conversations.
func TestConversation(t *testing.T) {
	for seed := range uint64(2000) {
		if err := converse(program(seed, 1000)); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

func program(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 7))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// converse runs the program b.
func converse(b []byte) error {
	next := func() int {
		if len(b) == 0 {
			return 0
		}
		v := b[0]
		b = b[1:]
		return int(v)
	}
	number := func(low, high int) int { return low + (next()<<8|next())%(high-low+1) }
	now := time.Duration(next()) * time.Millisecond
	makers := []func(int) congestion.Controller{
		fixed(1<<20, 64<<10), fixed(4000, 2480), congestion.NewCUBIC,
		func(mss int) congestion.Controller { return congestion.NewBBR(mss, 1) },
	}
	o := Options{
		MSS: number(40, 9000), ISS: uint32(-next() * 100), Congestion: makers[next()%len(makers)],
		SendLimit: number(1, 200_000), ReceiveLimit: number(1, 200_000),
		Keepalive: Keepalive{time.Duration(next()) * time.Second, time.Second, 3},
	}
	syn := Segment{Seq: uint32(-next() * 100), Flags: SYN, Window: uint16(number(0, 65535)), MSS: uint16(number(0, 9000)), Scale: int8(next()%16 - 1), SACKPermitted: next()%4 > 0, Timestamps: next()%2 > 0, TSVal: 1}
	syn.Scale = min(syn.Scale, maxScale)
	var c *Conn
	if next()%4 > 0 {
		c = Accept(now, o, &syn)
		c.Answer(now)
	} else {
		c = Dial(now, o)
	}
	sendMax, receiveMax := o.SendLimit, o.ReceiveLimit
	var run Run
	var buffer []byte // of an unfinished Buffer
	payload := make([]byte, 70_000)
	edge := int64(0)
	for len(b) > 0 {
		op := next() % 16
		switch op {
		case 0:
			now += time.Duration(number(0, 5000)) * time.Millisecond
			c.Wake(now)
		case 1, 2:
			if at, ok := c.Deadline(); ok {
				now = max(now, at)
				c.Wake(now)
			}
		case 3, 4:
			if op == 3 || buffer == nil {
				buffer = c.Buffer(number(0, 100_000))
			}
			if op == 4 && c.Room() > 0 {
				for i := range buffer {
					buffer[i] = byte(i)
				}
				c.Commit(now, number(0, min(len(buffer), c.Room())))
				buffer = nil
			}
		case 5:
			n := 0
			for _, p := range c.Peek() {
				n += len(p)
			}
			if n > 0 {
				c.Consume(now, number(0, n))
			}
		case 6:
			switch next() % 16 {
			case 0:
				c.CloseWrite(now)
				buffer = nil
			case 1:
				c.Abort(now)
				buffer = nil
			case 2:
				c.SetMSS(now, number(0, 9000))
			case 3:
				sendLimit, receiveLimit := number(1, 200_000), number(1, 200_000)
				sendMax, receiveMax = max(sendMax, sendLimit), max(receiveMax, receiveLimit)
				c.SetLimits(sendLimit, receiveLimit)
			case 4:
				c.MarkUrgent()
			}
		default:
			s := Segment{Scale: -1, Flags: ACK}
			near := func(base int64) int64 {
				switch next() % 4 {
				case 0:
					return base
				case 1:
					return base + int64(int8(next()))
				case 2:
					return base + int64(int16(number(0, 65535)))
				default:
					return base + int64(next())*int64(o.MSS)
				}
			}
			s.Seq, s.Ack = c.peerSeq(near(c.in.next)), c.seq(min(near(c.una), near(c.nxt)))
			s.Window = uint16(number(0, 65535))
			if flags := next(); flags < 64 {
				s.Flags = Flags(flags)
			}
			if next()%32 == 0 {
				s.Seq, s.Ack, s.Urgent = binary.BigEndian.Uint32(payload), uint32(number(0, 65535)), uint16(next())
			}
			if s.Flags&SYN != 0 && c.state == SynSent && next()%2 == 0 {
				s = syn
				s.Flags, s.Ack = SYN|ACK, c.seq(0)
			}
			if next()%2 == 0 {
				s.Payload = payload[:number(0, len(payload)-1)%(1+number(1, 65535))]
			}
			if next()%2 == 0 {
				s.Blocks = next() % (maxBlocks + 1)
				for i := range s.Blocks {
					s.SACK[i] = Block{c.seq(near(c.una)), c.seq(near(c.nxt))}
				}
			}
			if c.timestamps && next()%4 > 0 {
				s.Timestamps, s.TSVal, s.TSEcr = true, c.tsRecent+uint32(next()%4), c.timestamp(now)-uint32(next())
			}
			if next()%2 == 0 {
				c.Deliver(now, &s)
				break
			}
			c.DeliverDirect(now, &s)
			if pieces := c.Peek(); len(pieces) > 0 {
				c.Consume(now, number(0, len(pieces[0])))
			}
			c.Keep()
		}
		for n := 0; c.Next(now, &run); n++ {
			if n > 20_000 {
				return fmt.Errorf("Next does not end: %+v", c.Stats())
			}
			if err := checkRun(c, &run); err != nil {
				return err
			}
		}
		if err := c.check(); err != nil {
			return fmt.Errorf("operation %d in %v: %w", op, c.state, err)
		}
		if c.in.edge < edge {
			return fmt.Errorf("the window's edge moves back from %d to %d", edge, c.in.edge)
		}
		edge = c.in.edge
		send, receive := c.Buffered()
		if send > sendMax+3*largestBlock || receive > receiveMax+initialSlack {
			return fmt.Errorf("%d and %d bytes buffered, with limits of %d and %d", send, receive, sendMax, receiveMax)
		}
	}
	c.Abort(now)
	for c.Next(now, &run) {
	}
	if send, receive := c.Buffered(); send != 0 || receive != 0 {
		return fmt.Errorf("%d and %d bytes are left", send, receive)
	}
	return nil
}

// initialSlack is the part of the memory for received bytes that is not used: of two blocks, since a range may begin and
// end inside of one.
const initialSlack = 2*receiveBlock + 1<<ownScale

func checkRun(c *Conn, r *Run) error {
	s, err := Parse(r.Header)
	if err != nil {
		return err
	}
	size := 0
	for _, p := range r.Pieces {
		size += len(p)
	}
	if size != r.Size || size > 0 && r.MSS <= 0 || size > maxRunSize && r.MSS < size {
		return fmt.Errorf("a run of %d bytes has size %d, MSS %d", size, r.Size, r.MSS)
	}
	if min(size, r.MSS)+len(r.Header) > max(c.options.MSS, c.pathMSS, minMSS)+headerSize {
		return fmt.Errorf("a segment of %d bytes with a header of %d, MSS %d", min(size, r.MSS), len(r.Header), c.options.MSS)
	}
	if s.Flags&RST == 0 && (c.state != SynSent) != (s.Flags&ACK != 0) {
		return fmt.Errorf("flags %v in %v", s.Flags, c.state)
	}
	return nil
}

// check verifies the invariants of a connection.
func (c *Conn) check() error {
	b := &c.board
	var flight, lostBytes, sackedBytes, inList int
	at := c.una
	for i := range b.len() {
		r := b.at(i)
		if r.start != at || r.end <= r.start {
			return fmt.Errorf("record %d covers %d-%d, after %d", i, r.start, r.end, at)
		}
		at = r.end
		switch r.state {
		case inFlight:
			flight += r.size()
			inList++
		case lost:
			lostBytes += r.size()
			if r.start < b.lostFrom {
				return fmt.Errorf("a record at %d is lost; lostFrom is %d", r.start, b.lostFrom)
			}
		case sacked:
			sackedBytes += r.size()
			if i > 0 && b.at(i-1).state == sacked {
				return fmt.Errorf("records %d and %d are sacked", i-1, i)
			}
		}
	}
	if c.state != Closed && c.una >= 0 && at != c.nxt {
		return fmt.Errorf("records end at %d, SND.NXT is %d", at, c.nxt)
	}
	if flight != b.inFlight || lostBytes != b.lost || sackedBytes != b.sacked {
		return fmt.Errorf("%d, %d, %d bytes in flight, lost, sacked; the counters are %d, %d, %d", flight, lostBytes, sackedBytes, b.inFlight, b.lost, b.sacked)
	}
	if b.len() > 2*maxRecordsSent {
		return fmt.Errorf("%d records", b.len())
	}
	n := 0
	for r := b.first; r != nil; r = r.next {
		if p := r.prev; p != nil && (p.next != r || p.sent > r.sent) || p == nil && r != b.first || r.state != inFlight {
			return fmt.Errorf("the list by time is wrong at record %d", n)
		}
		n++
	}
	if n != inList {
		return fmt.Errorf("%d of %d records in flight are in the list by time", n, inList)
	}
	in := &c.in
	if in.consumed > in.dataEnd() || in.next > max(in.edge, 0)+1 || len(in.early) > maxEarly {
		return fmt.Errorf("consumed %d, next %d, edge %d, %d early ranges", in.consumed, in.next, in.edge, len(in.early))
	}
	if !slices.IsSortedFunc(in.early, func(x, y span) int { return int(x.to - y.from) }) {
		return fmt.Errorf("early ranges %v", in.early)
	}
	for _, x := range in.early {
		if x.from <= in.next || x.to <= x.from || x.to > in.edge {
			return fmt.Errorf("early range %v; next %d, edge %d", x, in.next, in.edge)
		}
	}
	if len(in.borrowed) > 0 && (in.buffer.held > 0 || int64(len(in.borrowed)) != in.dataEnd()-in.consumed) {
		return fmt.Errorf("%d bytes are borrowed, of %d; %d are held", len(in.borrowed), in.dataEnd()-in.consumed, in.buffer.held)
	}
	held := 0
	for i := range c.out.blocks.len() {
		held += len(c.out.blocks.at(i).b)
	}
	if c.out.spare != nil {
		held += len(c.out.spare.b)
	}
	if held != c.out.held {
		return fmt.Errorf("blocks of %d bytes, counted %d", held, c.out.held)
	}
	if c.una < 0 {
		return nil
	}
	if c.Unacked() && c.state != Closed && c.una < c.nxt {
		if _, ok := c.Deadline(); !ok {
			return fmt.Errorf("bytes are in flight without a timer")
		}
	}
	return nil
}
