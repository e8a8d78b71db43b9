package simnet_test

import (
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"subnetrouter/internal/simnet"
)

// tamper is an endpoint whose results are changed by the functions that are set.
type tamper struct {
	simnet.Endpoint
	now      time.Duration
	deliver  func(packet []byte) []byte
	read     func(b []byte, n int, err error) (int, error)
	packet   func(*simnet.Segment)
	raw      func(packet []byte)
	deadline func(now time.Duration, at time.Duration, ok bool) (time.Duration, bool)
	usage    func(*simnet.Usage)
	stop     error
}

func (e *tamper) Deliver(now time.Duration, packet []byte) {
	e.now = now
	if e.deliver != nil {
		packet = e.deliver(packet)
	}
	e.Endpoint.Deliver(now, packet)
}

func (e *tamper) Wake(now time.Duration) {
	e.now = now
	e.Endpoint.Wake(now)
}

func (e *tamper) Read(now time.Duration, b []byte) (int, error) {
	n, err := e.Endpoint.Read(now, b)
	if e.read != nil {
		return e.read(b, n, err)
	}
	return n, err
}

func (e *tamper) Packets() [][]byte {
	packets := e.Endpoint.Packets()
	for i, p := range packets {
		if s, err := simnet.Parse(p); err == nil && e.packet != nil {
			e.packet(&s)
			packets[i] = s.Packet()
		}
		if e.raw != nil {
			e.raw(packets[i])
		}
	}
	return packets
}

func (e *tamper) Deadline() (time.Duration, bool) {
	at, ok := e.Endpoint.Deadline()
	if e.deadline != nil {
		return e.deadline(e.now, at, ok)
	}
	return at, ok
}

func (e *tamper) Usage() simnet.Usage {
	u := e.Endpoint.Usage()
	if e.usage != nil {
		e.usage(&u)
	}
	return u
}

func (e *tamper) Stop() error { return e.stop }

// TestChecks: each check fails for a subject that violates it.
func TestChecks(t *testing.T) {
	for _, c := range []struct {
		name  string
		check string
		edit  func(*tamper)
	}{
		{"another byte", simnet.CheckBytes, func(e *tamper) {
			e.read = func(b []byte, n int, err error) (int, error) {
				if n > 100 {
					b[n/2] ^= 1
				}
				return n, err
			}
		}},
		{"a byte twice", simnet.CheckBytes, func(e *tamper) {
			e.read = func(b []byte, n int, err error) (int, error) {
				if n > 100 {
					copy(b[1:n], b[:n-1])
				}
				return n, err
			}
		}},
		{"a byte is missing", simnet.CheckBytes, func(e *tamper) {
			e.read = func(b []byte, n int, err error) (int, error) {
				if n > 1 {
					return copy(b, b[1:n]), err
				}
				return n, err
			}
		}},
		{"an end too early", simnet.CheckBytes, func(e *tamper) {
			e.read = func(_ []byte, n int, err error) (int, error) {
				if errors.Is(err, simnet.ErrWouldBlock) {
					err = io.EOF
				}
				return n, err
			}
		}},
		{"a reset without cause", simnet.CheckBytes, func(e *tamper) {
			e.read = func(_ []byte, n int, err error) (int, error) {
				if errors.Is(err, io.EOF) {
					err = simnet.ErrReset
				}
				return n, err
			}
		}},
		{"checksums are ignored", simnet.CheckWire, func(e *tamper) { e.deliver = fixChecksum }},
		{"a deadline that is always now", simnet.CheckStuck, func(e *tamper) {
			e.deadline = func(now, _ time.Duration, _ bool) (time.Duration, bool) { return now, true }
		}},
		{"no deadline", simnet.CheckStuck + " " + simnet.CheckMemory, func(e *tamper) {
			e.deadline = func(time.Duration, time.Duration, bool) (time.Duration, bool) { return 0, false }
		}},
		{"too many bytes buffered", simnet.CheckMemory, func(e *tamper) {
			e.usage = func(u *simnet.Usage) { u.Buffered *= 8 }
		}},
		{"a byte left", simnet.CheckMemory, func(e *tamper) {
			e.usage = func(u *simnet.Usage) { u.Buffered++ }
		}},
		{"a connection left", simnet.CheckMemory, func(e *tamper) {
			e.usage = func(u *simnet.Usage) { u.Connections = 1 }
		}},
		{"a timer left", simnet.CheckMemory, func(e *tamper) {
			e.deadline = func(now, at time.Duration, ok bool) (time.Duration, bool) {
				if !ok {
					return now + 24*time.Hour, true
				}
				return at, ok
			}
		}},
		{"a goroutine left", simnet.CheckMemory, func(e *tamper) { e.stop = errors.New("a goroutine is still running") }},
		{"a wrong checksum", simnet.CheckWire, func(e *tamper) { e.raw = func(p []byte) { p[len(p)-1] ^= 1 } }},
		{"other bytes than written", simnet.CheckWire, func(e *tamper) {
			e.packet = func(s *simnet.Segment) {
				if len(s.Data) > 1 {
					s.Data[0] ^= 1
				}
			}
		}},
		{"bytes that were not written", simnet.CheckWire, func(e *tamper) {
			e.packet = func(s *simnet.Segment) {
				if len(s.Data) > 0 {
					s.Data = append(s.Data, 0)
				}
			}
		}},
		{"an acknowledgement too far", simnet.CheckWire, func(e *tamper) {
			e.packet = func(s *simnet.Segment) {
				if s.Flags&simnet.SYN == 0 {
					s.Ack++
				}
			}
		}},
		{"an acknowledgement that goes back", simnet.CheckWire, func(e *tamper) {
			acks := 0
			e.packet = func(s *simnet.Segment) {
				if acks++; acks == 4 {
					s.Ack--
				}
			}
		}},
		{"an end before the last byte", simnet.CheckWire, func(e *tamper) {
			e.packet = func(s *simnet.Segment) {
				if len(s.Data) > 0 {
					s.Flags |= simnet.FIN
				}
			}
		}},
		{"more than the MTU", simnet.CheckWire, func(e *tamper) {
			e.packet = func(s *simnet.Segment) { s.Data = append(s.Data, make([]byte, 9000)...) }
		}},
		{"another source", simnet.CheckWire, func(e *tamper) { e.packet = func(s *simnet.Segment) { s.Src = s.Dst } }},
	} {
		t.Run(c.name, func(t *testing.T) {
			sound := reference(noBug)
			bad := simnet.Subject{Name: c.name, New: func(config simnet.Config) simnet.Endpoint {
				e := &tamper{Endpoint: sound.New(config)}
				c.edit(e)
				return e
			}}
			total := simnet.Seeds(0, simnet.Count(100), func(seed uint64) simnet.Scenario { return simnet.Random(seed, sound, bad) })
			if !total.Failed || !strings.Contains(c.check, total.Failure.Check) {
				t.Errorf("failure %v, want one of the check %q", total.Failure, c.check)
			}
		})
	}
}

// fixChecksum corrects the checksums of a corrupt packet.
func fixChecksum(p []byte) []byte {
	if _, err := simnet.Parse(p); !errors.Is(err, simnet.ErrChecksum) {
		return p
	}
	sum := func(b []byte, s uint32) uint32 {
		for i, c := range b {
			s += uint32(c) << (8 * (1 - i%2))
		}
		return s
	}
	fold := func(s uint32) uint16 {
		for s > 0xffff {
			s = s>>16 + s&0xffff
		}
		return ^uint16(s)
	}
	addresses, body := p[8:40], p[40:]
	if p[0]>>4 == 4 {
		addresses, body = p[12:20], p[20:]
		binary.BigEndian.PutUint16(p[10:], 0)
		binary.BigEndian.PutUint16(p[10:], fold(sum(p[:20], 0)))
	}
	binary.BigEndian.PutUint16(body[16:], 0)
	binary.BigEndian.PutUint16(body[16:], fold(sum(body, sum(addresses, 6+uint32(len(body))))))
	return p
}
