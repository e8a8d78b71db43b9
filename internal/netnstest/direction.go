package netnstest

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// DirectionOptions are the properties of a [Wire] in one direction. The zero value passes
// every frame on at once. A frame goes through the stages in the order of the fields: MTU,
// policer, queue, transmission, loss, duplication, delay.
//
// Probabilities are from 0 to 1 and are drawn for each frame. Whether the n-th frame since
// the last change of options is lost, duplicated or reordered depends only on Seed, n and
// the probability, and neither on the time nor on the other options.
type DirectionOptions struct {
	// MTU is the size in bytes of the largest IP packet that passes. Larger ones disappear
	// without an ICMP message, as in a path-MTU black hole. 0: the interfaces' own MTU.
	MTU int
	// Policer drops frames above its rate without a queue.
	Policer Policer
	// Rate is in bits of Ethernet frames (header included, preamble and checksum not)
	// per second. 0: unlimited.
	Rate float64
	// Queue and QueueBytes bound the frames that wait for their transmission. A frame is
	// dropped if it would wait longer than Queue, or if it and the bytes before it exceed
	// QueueBytes. Without a Rate no frame waits. Both 0: DefaultQueue.
	Queue      time.Duration
	QueueBytes int
	// Loss is the probability that a frame is lost.
	Loss float64
	// BurstLoss is loss in bursts, in addition to Loss.
	BurstLoss BurstLoss
	// Duplicate is the probability that a frame arrives twice.
	Duplicate float64
	// Delay is the time from the end of the transmission to the arrival, one way.
	Delay time.Duration
	// Reorder is the probability that a frame arrives ReorderBy later than others, so that
	// the following frames overtake it.
	Reorder   float64
	ReorderBy time.Duration
	// Seed selects the sequence of random decisions.
	Seed uint64
}

// DefaultQueue is the longest wait for transmission if the options have no queue.
const DefaultQueue = 60 * time.Millisecond

// Policer is a token bucket. The zero value lets everything pass.
type Policer struct {
	Rate  float64 // bit/s of Ethernet frames; 0: no policer
	Burst int     // bytes that may pass at once after a pause
}

// BurstLoss is the Gilbert-Elliott model: a direction is in a good state, without loss, or
// in a bad one. The mean length of a bad period is 1/Leave frames, and the share of all
// frames that are lost is Loss·Enter/(Enter+Leave).
type BurstLoss struct {
	Enter float64 // probability to change from good to bad before a frame; 0: no burst loss
	Leave float64 // probability to change from bad to good before a frame
	Loss  float64 // probability that a frame is lost in the bad state
}

func (o DirectionOptions) check() error {
	for _, p := range []struct {
		name  string
		value float64
	}{
		{"Loss", o.Loss}, {"Duplicate", o.Duplicate}, {"Reorder", o.Reorder},
		{"BurstLoss.Enter", o.BurstLoss.Enter}, {"BurstLoss.Leave", o.BurstLoss.Leave}, {"BurstLoss.Loss", o.BurstLoss.Loss},
	} {
		if !(p.value >= 0 && p.value <= 1) {
			return fmt.Errorf("%s is %v: a probability is from 0 to 1", p.name, p.value)
		}
	}
	if o.Delay < 0 || o.Queue < 0 || o.ReorderBy < 0 || o.QueueBytes < 0 || o.MTU < 0 ||
		!(o.Rate >= 0) || !(o.Policer.Rate >= 0) || o.Policer.Burst < 0 {
		return fmt.Errorf("options of a wire are negative: %+v", o)
	}
	if o.Policer.Rate > 0 && o.Policer.Burst < maxFrame {
		return fmt.Errorf("Policer.Burst is %d: a bucket below %d bytes never passes a whole frame", o.Policer.Burst, maxFrame)
	}
	return nil
}

// DirectionStats counts the frames of one direction since the wire was plugged in.
type DirectionStats struct {
	Frames     int64 // that arrived from the sender
	Delivered  int64 // duplicates included
	Duplicated int64
	Reordered  int64 // held back by ReorderBy

	TooLarge  int64 // dropped: larger than MTU
	Policed   int64 // dropped by the policer
	Overflow  int64 // dropped at the end of the queue
	Lost      int64 // dropped by Loss
	BurstLost int64 // dropped by BurstLoss
	// Full counts frames dropped because maxHeld frames were queued or under way. The
	// options ask for more than the wire can hold if it is not 0.
	Full int64
}

const (
	ethernetHeader = 14
	maxFrame       = 2048 // bytes; interfaces have an MTU of 1,500
	maxHeld        = 1 << 14
)

// direction holds the frames of one direction until they are due. It is pure: the caller
// passes in the time, as the duration since an arbitrary start, which never decreases. It
// is not safe for concurrent use.
type direction struct {
	o     DirectionOptions
	stats DirectionStats

	// Each kind of decision has its own sequence, with one number drawn for each frame.
	loss, burst, burstLoss, duplicate, reorder *rand.Rand

	bad    bool          // the state of BurstLoss
	idleAt time.Duration // when the last queued frame will have been transmitted
	// tokens is the content of the policer's bucket at tokensAt, in bytes.
	tokens   float64
	tokensAt time.Duration

	// held is a binary heap by (due, seq). Frames of one due time leave in the order in
	// which they came.
	held []heldFrame
	seq  uint64
	free [][]byte // buffers of maxFrame bytes, at most maxHeld
}

type heldFrame struct {
	due   time.Duration
	seq   uint64
	frame []byte
}

func (h heldFrame) before(other heldFrame) bool {
	return h.due < other.due || h.due == other.due && h.seq < other.seq
}

func newDirection(o DirectionOptions) *direction {
	d := &direction{}
	d.set(o)
	return d
}

// set changes the options of frames that arrive from now on. Frames already held keep their
// due times, so that later ones may overtake them, as when a path changes. The random
// sequences start again, and the policer's bucket is full.
func (d *direction) set(o DirectionOptions) {
	d.o = o
	for i, r := range []**rand.Rand{&d.loss, &d.burst, &d.burstLoss, &d.duplicate, &d.reorder} {
		*r = rand.New(rand.NewPCG(o.Seed, uint64(i)))
	}
	d.bad = false
	d.tokens = float64(o.Policer.Burst)
}

// offer takes a frame that arrives at now. It copies the frame.
func (d *direction) offer(now time.Duration, frame []byte) {
	d.stats.Frames++
	// All numbers are drawn before any decision, so that the sequences do not depend on
	// the time, on which the queue and the policer do.
	o := d.o
	lost := d.loss.Float64() < o.Loss
	if change := d.burst.Float64(); d.bad {
		d.bad = change >= o.BurstLoss.Leave
	} else {
		d.bad = change < o.BurstLoss.Enter
	}
	burstLost := d.burstLoss.Float64() < o.BurstLoss.Loss && d.bad
	duplicated := d.duplicate.Float64() < o.Duplicate
	reordered := d.reorder.Float64() < o.Reorder

	if len(frame) > maxFrame || o.MTU > 0 && len(frame)-ethernetHeader > o.MTU {
		d.stats.TooLarge++
		return
	}
	if !d.police(now, len(frame)) {
		d.stats.Policed++
		return
	}
	sent, ok := d.transmit(now, len(frame))
	if !ok {
		d.stats.Overflow++
		return
	}
	// A lost frame has taken its share of the rate.
	if lost {
		d.stats.Lost++
		return
	}
	if burstLost {
		d.stats.BurstLost++
		return
	}
	due := sent + o.Delay
	if reordered {
		d.stats.Reordered++
		due += o.ReorderBy
	}
	d.hold(due, frame)
	if duplicated {
		d.stats.Duplicated++
		d.hold(due, frame)
	}
}

// police takes tokens for a frame, and reports whether there were enough.
func (d *direction) police(now time.Duration, size int) bool {
	p := d.o.Policer
	if p.Rate == 0 {
		return true
	}
	d.tokens = min(d.tokens+(now-d.tokensAt).Seconds()*p.Rate/8, float64(p.Burst))
	d.tokensAt = now
	if d.tokens < float64(size) {
		return false
	}
	d.tokens -= float64(size)
	return true
}

// transmit queues a frame behind those before it, and returns the end of its transmission.
// It returns false if the queue has no room.
func (d *direction) transmit(now time.Duration, size int) (end time.Duration, ok bool) {
	if d.o.Rate == 0 {
		return now, true
	}
	wait := max(0, d.idleAt-now)
	limit := d.o.Queue
	if limit == 0 && d.o.QueueBytes == 0 {
		limit = DefaultQueue
	}
	if limit > 0 && wait > limit {
		return 0, false
	}
	if d.o.QueueBytes > 0 && wait.Seconds()*d.o.Rate/8+float64(size) > float64(d.o.QueueBytes) {
		return 0, false
	}
	d.idleAt = now + wait + time.Duration(float64(size)*8/d.o.Rate*float64(time.Second))
	return d.idleAt, true
}

func (d *direction) hold(due time.Duration, frame []byte) {
	if len(d.held) >= maxHeld {
		d.stats.Full++
		return
	}
	var b []byte
	if n := len(d.free); n > 0 {
		b, d.free = d.free[n-1], d.free[:n-1]
	} else {
		b = make([]byte, maxFrame)
	}
	d.seq++
	d.held = append(d.held, heldFrame{due, d.seq, b[:copy(b, frame)]})
	for i := len(d.held) - 1; i > 0; {
		parent := (i - 1) / 2
		if !d.held[i].before(d.held[parent]) {
			break
		}
		d.held[i], d.held[parent] = d.held[parent], d.held[i]
		i = parent
	}
}

// next returns the due time of the first frame, or false if none is held.
func (d *direction) next() (due time.Duration, ok bool) {
	if len(d.held) == 0 {
		return 0, false
	}
	return d.held[0].due, true
}

// take removes the first frame if it is due at now. The caller returns it with giveBack.
func (d *direction) take(now time.Duration) (frame []byte, ok bool) {
	if due, ok := d.next(); !ok || due > now {
		return nil, false
	}
	frame = d.held[0].frame
	last := len(d.held) - 1
	d.held[0], d.held[last] = d.held[last], heldFrame{}
	d.held = d.held[:last]
	for i := 0; ; {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < last; child++ {
			if d.held[child].before(d.held[least]) {
				least = child
			}
		}
		if least == i {
			break
		}
		d.held[i], d.held[least] = d.held[least], d.held[i]
		i = least
	}
	d.stats.Delivered++
	return frame, true
}

func (d *direction) giveBack(frame []byte) { d.free = append(d.free, frame[:maxFrame]) }
