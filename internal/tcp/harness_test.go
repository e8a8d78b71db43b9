package tcp

import (
	"time"

	"subnetrouter/internal/tcp/congestion"
)

// fixedWindow is a congestion control with a constant window and no pacing.
type fixedWindow struct{ window, quantum int }

func (f *fixedWindow) Send(time.Duration, *congestion.Packet, int, int) {}
func (f *fixedWindow) Acked(time.Duration, *congestion.Packet, int)     {}
func (f *fixedWindow) Lost(time.Duration, *congestion.Packet, int)      {}
func (f *fixedWindow) Ack(time.Duration, congestion.Ack)                {}
func (f *fixedWindow) Timeout(time.Duration, int)                       {}
func (f *fixedWindow) Spurious(time.Duration)                           {}
func (f *fixedWindow) EnterRecovery(time.Duration, int)                 {}
func (f *fixedWindow) ExitRecovery(time.Duration)                       {}
func (f *fixedWindow) AppLimited(int)                                   {}
func (f *fixedWindow) Window() int                                      { return f.window }
func (f *fixedWindow) PacingRate() int64                                { return 1 << 40 }
func (f *fixedWindow) Quantum() int                                     { return f.quantum }
func (f *fixedWindow) DeliveryRate() int64                              { return 0 }
func (f *fixedWindow) Name() string                                     { return "fixed" }
func (f *fixedWindow) State() string                                    { return "steady" }

func fixed(window, quantum int) func(int) congestion.Controller {
	return func(int) congestion.Controller { return &fixedWindow{window, quantum} }
}

// pair is two connected ends without a network in between.
type pair struct {
	now  time.Duration
	ends [2]*Conn
	run  Run
	flat []byte
	// direct makes the receiver consume all payload without a copy.
	direct bool
}

// connect returns the ends of an established connection.
func connect(a, b Options) *pair {
	p := &pair{now: time.Second}
	p.ends[0] = Dial(p.now, a)
	p.ends[0].Next(p.now, &p.run)
	syn, err := Parse(p.run.Header)
	if err != nil {
		panic(err)
	}
	p.ends[1] = Accept(p.now, b, &syn)
	p.ends[1].Answer(p.now)
	p.exchange()
	if p.ends[0].State() != Established || p.ends[1].State() != Established {
		panic("no connection")
	}
	return p
}

// move hands all that an end has to send to the other, each run as one merged segment, and returns how many.
func (p *pair) move(from int) (runs int) {
	for p.ends[from].Next(p.now, &p.run) {
		runs++
		p.flat = p.flat[:0]
		for _, b := range p.run.Pieces {
			p.flat = append(p.flat, b...)
		}
		s, err := Parse(p.run.Header)
		if err != nil {
			panic(err)
		}
		s.Payload = p.flat
		to := p.ends[1-from]
		if !p.direct {
			to.Deliver(p.now, &s)
			continue
		}
		to.DeliverDirect(p.now, &s)
		to.Consume(p.now, to.Available())
		to.Keep()
	}
	return runs
}

// exchange moves segments until neither end has any more to send now.
func (p *pair) exchange() {
	for p.move(0)+p.move(1) > 0 {
		p.now += time.Microsecond
	}
}
