// Package own adapts the router's TCP, package tcp, to package simnet.
package own

import (
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"subnetrouter/internal/packet"
	"subnetrouter/internal/simnet"
	"subnetrouter/internal/tcp"
	"subnetrouter/internal/tcp/congestion"
)

// Options select variants. The zero value has a fixed congestion window.
type Options struct {
	Name string
	// Congestion makes the congestion control of an end whose random numbers depend on seed.
	Congestion func(mss int, seed uint64) congestion.Controller
	// Edit changes the options of each connection.
	Edit func(*tcp.Options)
}

// Subject returns the router's TCP.
func Subject(o Options) simnet.Subject {
	name := "own"
	if o.Name != "" {
		name += ", " + o.Name
	}
	if o.Congestion == nil {
		o.Congestion = func(mss int, _ uint64) congestion.Controller { return &fixed{mss: mss} }
	}
	return simnet.Subject{Name: name, New: func(c simnet.Config) simnet.Endpoint { return newEndpoint(c, o) }}
}

// endpoint is one end of a connection.
type endpoint struct {
	config  simnet.Config
	options tcp.Options
	now     time.Duration
	conn    *tcp.Conn // nil while it listens, and after the end
	over    bool
	up      bool // the application knows of the connection
	blocked bool // the application waits for room
	seen    int  // bytes that the application has been notified of, or has read
	read    int
	eof     bool // it has been notified of the peer's end
	failed  bool // it has been notified of an error
	packets [][]byte
	events  simnet.Events
	run     tcp.Run
}

func newEndpoint(c simnet.Config, o Options) simnet.Endpoint {
	rng := rand.New(rand.NewPCG(c.Seed, 3))
	e := &endpoint{config: c}
	e.options = tcp.Options{
		MSS: e.mss(c.MTU), ISS: rng.Uint32(), TimestampOffset: rng.Uint32(),
		Congestion: func(mss int) congestion.Controller { return o.Congestion(mss, c.Seed) },
		// No fault of a scenario lasts longer.
		Handshake: time.Hour,
		SendLimit: c.SendBuffer, ReceiveLimit: c.ReceiveBuffer,
	}
	if rng.IntN(4) == 0 { // sequence numbers that wrap early
		e.options.ISS = -uint32(rng.IntN(1 << 14))
	}
	if o.Edit != nil {
		o.Edit(&e.options)
	}
	if c.Active {
		e.conn = tcp.Dial(0, e.options)
		e.settle(0)
	}
	return e
}

func (e *endpoint) mss(mtu int) int {
	return mtu - packet.HeaderSize(e.config.Local.Addr()) - packet.TCPHeader
}

// settle takes segments and notifications from the connection.
func (e *endpoint) settle(now time.Duration) {
	e.now = now
	c := e.conn
	if c == nil {
		return
	}
	for c.Next(now, &e.run) {
		e.split(&e.run)
	}
	if c.Closed() && !c.Established() && !e.config.Active { // a failed handshake: it listens again
		e.conn = nil
		return
	}
	if c.Established() && !e.up {
		e.up = true
		e.events |= simnet.Readable | simnet.Writable
	}
	if n := e.read + c.Available(); n > e.seen {
		e.seen = n
		e.events |= simnet.Readable
	}
	if c.ReceivedFIN() && !e.eof {
		e.eof = true
		e.events |= simnet.Readable
	}
	if c.Err() != nil && !e.failed {
		e.failed = true
		e.events |= simnet.Readable | simnet.Writable
	}
	if e.blocked && (c.Room() > 0 || c.Closed()) {
		e.blocked = false
		e.events |= simnet.Writable
	}
}

// split makes the packets of a run.
func (e *endpoint) split(r *tcp.Run) {
	src, dst := e.config.Local, e.config.Remote
	ip := packet.HeaderSize(src.Addr())
	headers := make([]byte, ip+len(r.Header))
	packet.PutIP(headers, src.Addr(), dst.Addr(), packet.ProtoTCP)
	if src.Addr().Is4() {
		headers[6] = 0x40 // don't fragment
	}
	copy(headers[ip:], r.Header)
	headers[ip], headers[ip+1] = byte(src.Port()>>8), byte(src.Port())
	headers[ip+2], headers[ip+3] = byte(dst.Port()>>8), byte(dst.Port())
	run := packet.SegmentRun{IP: headers[:ip], TCP: headers[ip:], Pieces: r.Pieces, Size: r.Size, MSS: r.MSS}
	n := 1
	if r.Size > 0 {
		n = (r.Size + r.MSS - 1) / r.MSS
	}
	var slab packet.Slab
	slab.Reset(make([]byte, n*(packet.SlabGap+len(headers))+r.Size+packet.SlabGap), n)
	run.Split(0, &slab)
	for i := range slab.Len() {
		b, _ := slab.Packet(i)
		e.packets = append(e.packets, b)
	}
}

func (e *endpoint) Deliver(now time.Duration, b []byte) {
	defer e.settle(now)
	if mtu, ok := simnet.TooBig(b); ok {
		if e.conn != nil {
			e.conn.SetMSS(now, e.mss(mtu))
		}
		return
	}
	var p packet.Packet
	if !p.Parse(b) || p.Protocol != packet.ProtoTCP || p.Src != e.config.Remote.Addr() || p.Dst != e.config.Local.Addr() {
		return
	}
	raw, err := p.Segment()
	if err != nil {
		return
	}
	s, err := tcp.Parse(raw)
	if err != nil || s.SrcPort != e.config.Remote.Port() || s.DstPort != e.config.Local.Port() {
		return
	}
	switch {
	case e.conn != nil && !(e.over && e.conn.Closed()):
		if e.config.Seed%2 == 0 {
			e.conn.Deliver(now, &s)
			return
		}
		e.conn.DeliverDirect(now, &s)
		e.conn.Keep()
	case e.conn == nil && !e.config.Active && !e.over && s.Flags&(tcp.SYN|tcp.ACK|tcp.RST) == tcp.SYN:
		e.conn = tcp.Accept(now, e.options, &s)
		e.conn.Answer(now)
	default:
		e.refuse(&s)
	}
}

// refuse answers as a host without the connection.
func (e *endpoint) refuse(s *tcp.Segment) {
	if header, ok := tcp.ResetFor(s); ok {
		e.split(&tcp.Run{Header: header})
	}
}

func (e *endpoint) Wake(now time.Duration) {
	if e.conn != nil {
		e.conn.Wake(now)
	}
	e.settle(now)
}

func (e *endpoint) Deadline() (time.Duration, bool) {
	if e.conn == nil {
		return 0, false
	}
	return e.conn.Deadline()
}

func (e *endpoint) Packets() [][]byte {
	p := e.packets
	e.packets = nil
	return p
}

func (e *endpoint) Events() simnet.Events {
	events := e.events
	e.events = 0
	return events
}

func (e *endpoint) Read(now time.Duration, b []byte) (n int, err error) {
	if e.conn == nil {
		return 0, simnet.ErrWouldBlock
	}
	defer e.settle(now)
	for n < len(b) {
		pieces := e.conn.Peek()
		if len(pieces) == 0 {
			break
		}
		m := 0
		for _, p := range pieces {
			m += copy(b[n+m:], p)
		}
		e.conn.Consume(now, m)
		n += m
	}
	e.read += n
	e.seen = max(e.seen, e.read)
	switch {
	case n > 0:
		return n, nil
	case e.conn.Err() != nil:
		return 0, fmt.Errorf("%w: %w", simnet.ErrReset, e.conn.Err())
	case e.conn.ReceivedFIN():
		return 0, io.EOF
	default:
		return 0, simnet.ErrWouldBlock
	}
}

func (e *endpoint) Write(now time.Duration, b []byte) (n int, err error) {
	if e.conn == nil {
		return 0, simnet.ErrWouldBlock
	}
	defer e.settle(now)
	if e.conn.Closed() {
		return 0, fmt.Errorf("%w: %w", simnet.ErrReset, e.conn.Err())
	}
	for n < len(b) {
		room := min(e.conn.Room(), len(b)-n)
		if room == 0 {
			e.blocked = true
			return n, simnet.ErrWouldBlock
		}
		m := copy(e.conn.Buffer(room), b[n:])
		e.conn.Commit(now, m)
		n += m
	}
	return n, nil
}

func (e *endpoint) CloseWrite(now time.Duration) {
	e.conn.CloseWrite(now)
	e.settle(now)
}

func (e *endpoint) Abort(now time.Duration) {
	e.over = true
	if e.conn != nil {
		e.conn.Abort(now)
	}
	e.settle(now)
	e.events = 0
}

func (e *endpoint) Close(now time.Duration) {
	e.over = true
	e.settle(now)
}

func (e *endpoint) Usage() simnet.Usage {
	if e.conn == nil {
		return simnet.Usage{}
	}
	send, receive := e.conn.Buffered()
	u := simnet.Usage{Buffered: send + receive}
	if !e.conn.Closed() {
		u.Connections = 1
	}
	return u
}

// String describes the state of the connection.
func (e *endpoint) String() string {
	if e.conn == nil {
		return "no connection"
	}
	return fmt.Sprintf("%+v", e.conn.Stats())
}

// fixed is a congestion control with a constant window, halved while it recovers.
type fixed struct {
	mss      int
	recovery bool
}

func (f *fixed) Send(time.Duration, *congestion.Packet, int, int) {}
func (f *fixed) Acked(time.Duration, *congestion.Packet, int)     {}
func (f *fixed) Lost(time.Duration, *congestion.Packet, int)      {}
func (f *fixed) Ack(time.Duration, congestion.Ack)                {}
func (f *fixed) Timeout(time.Duration, int)                       { f.recovery = false }
func (f *fixed) Spurious(time.Duration)                           {}
func (f *fixed) EnterRecovery(time.Duration, int)                 { f.recovery = true }
func (f *fixed) ExitRecovery(time.Duration)                       { f.recovery = false }
func (f *fixed) AppLimited(int)                                   {}

func (f *fixed) Window() int {
	if f.recovery {
		return 10 * f.mss
	}
	return 20 * f.mss
}

func (f *fixed) PacingRate() int64 { return 1 << 40 }

func (f *fixed) Quantum() int { return 10 * f.mss }

func (f *fixed) DeliveryRate() int64 { return 0 }

func (f *fixed) Name() string { return "fixed" }

func (f *fixed) State() string { return "steady" }
