package simnet_test

import (
	"fmt"
	"time"

	"subnetrouter/internal/simnet"
)

// flawed returns a subject with a bug planted at its boundary, for one whose code cannot be
// changed.
func flawed(s simnet.Subject, b bug) simnet.Subject {
	inner := s.New
	s.Name += " with " + string(b)
	s.New = func(c simnet.Config) simnet.Endpoint {
		f := &flaw{Endpoint: inner(c), bug: b, victim: -1, wake: 1 + int(c.Seed%8)}
		c.Active = false
		f.listen = func() simnet.Endpoint { return inner(c) }
		return f
	}
	return s
}

// flaw alters the packets, notifications and calls of an endpoint.
type flaw struct {
	simnet.Endpoint
	bug    bug
	iss    uint32
	max    int64 // one past the last position that it has sent, relative to iss
	victim int64 // the byte that is never retransmitted
	wake   int   // how many notifications until the one that is swallowed
	listen func() simnet.Endpoint
	left   simnet.Endpoint // a listener that a reset leaves behind
}

func (f *flaw) Packets() [][]byte {
	var out [][]byte
	for _, p := range f.Endpoint.Packets() {
		if s, err := simnet.Parse(p); err == nil {
			if p = f.edit(&s, p); p == nil {
				continue
			}
		}
		out = append(out, p)
	}
	return out
}

func (f *flaw) edit(s *simnet.Segment, p []byte) []byte {
	if s.Flags&simnet.SYN != 0 {
		f.iss = s.Seq
	}
	from := int64(int32(s.Seq - f.iss))
	to := from + int64(s.Len())
	switch {
	case f.bug == lostRetransmission && len(s.Data) > 0 && from < f.max:
		if f.victim < 0 {
			f.victim = from
		}
		if from <= f.victim && f.victim < to {
			return nil
		}
	case f.bug == wrongSACKEdge && len(s.SACK) > 0:
		s.SACK[0].Right++
		return s.Packet()
	}
	f.max = max(f.max, to)
	return p
}

func (f *flaw) Deliver(now time.Duration, packet []byte) {
	if f.bug == windowOverflow {
		if s, err := simnet.Parse(packet); err == nil && s.Flags&simnet.RST == 0 {
			s.Window = 65535
			packet = s.Packet()
		}
	}
	f.Endpoint.Deliver(now, packet)
	if f.bug == leak && f.left == nil {
		if s, err := simnet.Parse(packet); err == nil && s.Flags&simnet.RST != 0 {
			f.left = f.listen()
		}
	}
}

func (f *flaw) Events() simnet.Events {
	events := f.Endpoint.Events()
	if f.bug == missedWakeUp && events&simnet.Readable != 0 {
		if f.wake--; f.wake == 0 {
			events &^= simnet.Readable
		}
	}
	return events
}

func (f *flaw) Usage() simnet.Usage {
	u := f.Endpoint.Usage()
	if f.left != nil {
		u.Connections += f.left.Usage().Connections
	}
	return u
}

func (f *flaw) String() string { return fmt.Sprint(f.Endpoint) }

func (f *flaw) Stop() error {
	for _, e := range []simnet.Endpoint{f.Endpoint, f.left} {
		if s, ok := e.(simnet.Stopper); ok {
			if err := s.Stop(); err != nil {
				return err
			}
		}
	}
	return nil
}
