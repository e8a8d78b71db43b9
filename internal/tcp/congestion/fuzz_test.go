package congestion

import (
	"encoding/binary"
	"math"
	"testing"
	"time"
)

// FuzzController feeds sequences of calls, sensible or not, as an arbitrary peer and a faulty sender may cause them.
// Whatever happens, window, pacing rate and quantum stay within their bounds, and equal calls have equal results.
func FuzzController(f *testing.F) {
	f.Add([]byte("\x00\x00\x10\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09"), uint16(1228))
	f.Add([]byte("\x00\xff\xff\x01\xff\xff\x03\xff\xff\x00\xff\xff\x02\x00\x00\x04\x00\x00"), uint16(0))
	f.Fuzz(func(t *testing.T, calls []byte, mss uint16) {
		for _, mk := range []func() Controller{
			func() Controller { return NewBBR(int(mss), 1) },
			func() Controller { return NewCUBIC(int(mss)) },
		} {
			c, again := mk(), mk()
			drive(t, c, calls, int(mss))
			drive(t, again, calls, int(mss))
			if c.Window() != again.Window() || c.PacingRate() != again.PacingRate() || c.State() != again.State() {
				t.Fatalf("%s: equal calls, different results", c.Name())
			}
		}
	})
}

// drive makes a call for each 3 bytes: a kind and an argument, which is a logarithmic scale for sizes and times.
func drive(t *testing.T, c Controller, calls []byte, mss int) {
	t.Helper()
	var now time.Duration
	var flying []Packet
	least := min(max(mss, 1), maxQuantum/2)
	for ; len(calls) >= 3; calls = calls[3:] {
		arg := binary.BigEndian.Uint16(calls[1:])
		big := int(math.Exp2(float64(arg) / 65536 * 31)) // up to 2 GiB
		if len(flying) == 0 {
			flying = append(flying, Packet{}) // never sent
		}
		p := &flying[int(arg)%len(flying)]
		switch calls[0] % 16 {
		case 0, 1, 2:
			if len(flying) < 1000 {
				flying = append(flying, Packet{})
			}
			c.Send(now, &flying[len(flying)-1], big, int(arg)*mss)
		case 3:
			c.Send(now, p, mss, 0)
		case 4, 5:
			c.Acked(now, p, big)
			c.Ack(now, Ack{InFlight: big, RTT: time.Duration(big) * 10, WindowLimited: arg&1 != 0})
		case 6:
			c.Acked(now, p, mss)
		case 7:
			c.Lost(now, p, big)
			c.EnterRecovery(now, int(arg))
		case 8:
			c.Lost(now, p, mss)
		case 9:
			c.Ack(now, Ack{InFlight: int(arg), RTT: time.Duration(arg), InRecovery: arg&2 != 0})
		case 10:
			c.Timeout(now, big)
		case 11:
			c.Spurious(now)
		case 12:
			c.ExitRecovery(now)
		case 13:
			c.AppLimited(big)
		default:
			now += time.Duration(math.Exp2(float64(arg) / 65536 * 45)) // up to 9 h
		}
		if w := c.Window(); w < least || w > maxVolume {
			t.Fatalf("%s in %s: window %d, segments of %d", c.Name(), c.State(), w, least)
		}
		if r := c.PacingRate(); r < minRate || r > maxRate {
			t.Fatalf("%s in %s: pacing rate %d", c.Name(), c.State(), r)
		}
		if q := c.Quantum(); q < 2*least || q > maxQuantum {
			t.Fatalf("%s in %s: quantum %d", c.Name(), c.State(), q)
		}
		if d := c.DeliveryRate(); d < 0 || d > maxRate {
			t.Fatalf("%s in %s: delivery rate %d", c.Name(), c.State(), d)
		}
	}
}
