package simnet

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"time"
)

// Path is one direction of the network between the two ends. The zero value delivers every
// packet at once. Probabilities are for each packet.
type Path struct {
	Delay  time.Duration
	Jitter time.Duration // up to this is added to Delay; packets stay in order

	Loss       float64 // random loss
	BurstStart float64 // the probability that a burst of losses starts
	BurstEnd   float64 // the probability that it ends
	BurstLoss  float64 // loss during a burst

	Reorder      float64       // the probability that others may overtake a packet
	ReorderDelay time.Duration // up to this is added to its delay
	Duplicate    float64
	Corrupt      float64 // one or more bits change; always detectable by checksums

	MTU   int // larger packets are dropped, with an ICMP error to the sender; 0: none is
	Rate  int // bytes a second; 0: unlimited
	Queue int // bytes that wait for Rate before packets are dropped; 0: unlimited

	Down bool // every packet is lost
}

// clean returns the path without its faults. The queue still drops packets that are sent too
// fast.
func (p Path) clean() Path {
	return Path{Delay: p.Delay, MTU: p.MTU, Rate: p.Rate, Queue: p.Queue}
}

// Change replaces the path at a time.
type Change struct {
	At   time.Duration
	Path Path
}

// fate names a link's treatment of a packet, for the trace.
type fate string

const (
	passed     fate = ""
	lost       fate = "LOST"
	lostBurst  fate = "LOST IN A BURST"
	lostDown   fate = "LOST: PATH DOWN"
	lostQueue  fate = "DROPPED: QUEUE FULL"
	lostMTU    fate = "DROPPED: LARGER THAN THE PATH'S MTU"
	corrupted  fate = "CORRUPTED"
	duplicated fate = "DUPLICATED"
	reordered  fate = "DELAYED FOR REORDERING"
)

// drops reports whether nothing of the packet arrives.
func (f fate) drops() bool {
	return f == lost || f == lostBurst || f == lostDown || f == lostQueue || f == lostMTU
}

// link is one direction of the network in a run.
type link struct {
	path  Path
	rng   *rand.Rand
	burst bool
	busy  time.Duration // until when the packets of the queue occupy the link
	last  time.Duration // the arrival of the last packet in order
}

func (l *link) change(p Path) {
	l.path = p
	// A shorter path delivers new packets before old ones.
	l.last, l.burst = 0, false
}

// send decides on the fate of a packet that is sent at a time. It calls deliver for each copy
// that arrives, with the time.
func (l *link) send(now time.Duration, packet []byte, deliver func(at time.Duration, packet []byte, intact bool)) fate {
	p := &l.path
	if l.burst {
		l.burst = !l.chance(p.BurstEnd)
	} else {
		l.burst = l.chance(p.BurstStart)
	}
	switch {
	case p.Down:
		return lostDown
	case p.MTU != 0 && len(packet) > p.MTU:
		return lostMTU
	case l.chance(p.Loss):
		return lost
	case l.burst && l.chance(p.BurstLoss):
		return lostBurst
	}
	at := now
	if p.Rate > 0 {
		at = max(now, l.busy)
		if p.Queue > 0 && int((at-now).Seconds()*float64(p.Rate)) > p.Queue {
			return lostQueue
		}
		at += time.Duration(float64(len(packet)) / float64(p.Rate) * float64(time.Second))
		l.busy = at
	}
	at += p.Delay + l.upTo(p.Jitter)
	did := passed
	if l.chance(p.Reorder) {
		at += l.upTo(p.ReorderDelay)
		did = reordered
	} else {
		at = max(at, l.last)
		l.last = at
	}
	if l.chance(p.Duplicate) {
		deliver(at+l.upTo(p.ReorderDelay), bytes.Clone(packet), true)
		did = duplicated
	}
	if l.chance(p.Corrupt) {
		if c := corrupt(l.rng, packet); c != nil {
			deliver(at, c, false)
			return corrupted
		}
		return lost
	}
	deliver(at, packet, true)
	return did
}

func (l *link) chance(p float64) bool { return p > 0 && l.rng.Float64() < p }

func (l *link) upTo(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(l.rng.Int64N(int64(d) + 1))
}

// corrupt returns a copy of a packet with one to 16 bits changed: one in half of all cases. A
// TCP checksum misses some changes of two and more bits; those are no fault of a receiver, so
// they are drawn again. It returns nil if it finds none that checksums detect.
func corrupt(rng *rand.Rand, packet []byte) []byte {
	for range 8 {
		c := bytes.Clone(packet)
		bits := 1
		for bits < 16 && rng.IntN(2) == 0 {
			bits++
		}
		for range bits {
			c[rng.IntN(len(c))] ^= 1 << rng.IntN(8)
		}
		if detectable(c) {
			return c
		}
	}
	return nil
}

// detectable reports whether a checksum or a length shows that a packet is corrupt. A receiver
// may overlook other signs, such as a malformed option.
func detectable(c []byte) bool {
	if len(c) < ipv6Header {
		return true // shorter than any TCP packet
	}
	header, end := ipv6Header, ipv6Header+int(binary.BigEndian.Uint16(c[4:]))
	src, dst := c[8:24], c[24:40]
	switch {
	case c[0]>>4 == 4:
		header, end = int(c[0]&15)*4, int(binary.BigEndian.Uint16(c[2:]))
		if header < ipv4Header || header > len(c) || sum(c[:header], 0) != 0xffff {
			return true
		}
		src, dst = c[12:16], c[16:20]
	case c[0]>>4 != 6 || c[6] != protoTCP:
		return true
	}
	if end > len(c) || end < header+tcpHeader {
		return true
	}
	body := c[header:end]
	pseudo := uint32(sum(src, uint32(sum(dst, protoTCP)))) + uint32(len(body))
	return sum(body, pseudo) != 0xffff
}
