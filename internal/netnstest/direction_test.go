package netnstest

import (
	"encoding/binary"
	"math"
	"slices"
	"testing"
	"time"
)

// arrival is a frame that left a direction.
type arrival struct {
	id uint32
	at time.Duration
}

// frameOf returns a frame of size bytes that carries id.
func frameOf(id uint32, size int) []byte {
	b := make([]byte, size)
	binary.BigEndian.PutUint32(b, id)
	return b
}

// drain takes all frames at their due times.
func drain(d *direction) (list []arrival) {
	for {
		due, ok := d.next()
		if !ok {
			return list
		}
		if f, early := d.take(due - 1); early {
			panic("a frame left before its due time: " + string(f))
		}
		f, _ := d.take(due)
		list = append(list, arrival{binary.BigEndian.Uint32(f), due})
		d.giveBack(f)
	}
}

// run offers n frames of size bytes, one per interval, and returns the arrivals.
func run(d *direction, n, size int, every time.Duration) (list []arrival) {
	for i := range n {
		now := time.Duration(i) * every
		for {
			f, ok := d.take(now)
			if !ok {
				break
			}
			list = append(list, arrival{binary.BigEndian.Uint32(f), now})
			d.giveBack(f)
		}
		d.offer(now, frameOf(uint32(i), size))
	}
	return append(list, drain(d)...)
}

func ids(list []arrival) (all []uint32) {
	for _, a := range list {
		all = append(all, a.id)
	}
	return all
}

func TestDirectionDelaysInOrder(t *testing.T) {
	d := newDirection(DirectionOptions{Delay: 30 * time.Millisecond})
	for i := range uint32(3) {
		d.offer(time.Duration(i)*time.Millisecond, frameOf(i, 100))
	}
	d.offer(2*time.Millisecond, frameOf(3, 100)) // due together with the last one
	want := []arrival{{0, 30 * time.Millisecond}, {1, 31 * time.Millisecond}, {2, 32 * time.Millisecond}, {3, 32 * time.Millisecond}}
	if got := drain(d); !slices.Equal(got, want) {
		t.Errorf("arrivals are %v, want %v", got, want)
	}
}

// TestDirectionRate: at 8 Mbit/s a frame of 1,000 bytes takes 1 ms.
func TestDirectionRate(t *testing.T) {
	const ms = time.Millisecond
	for name, c := range map[string]struct {
		o    DirectionOptions
		want []arrival
		over int64
	}{
		"queue by time": {
			DirectionOptions{Rate: 8e6, Queue: 3 * ms, Delay: 10 * ms},
			[]arrival{{0, 11 * ms}, {1, 12 * ms}, {2, 13 * ms}, {3, 14 * ms}}, 6,
		},
		"queue by bytes": {
			DirectionOptions{Rate: 8e6, QueueBytes: 2999, Delay: 10 * ms},
			[]arrival{{0, 11 * ms}, {1, 12 * ms}}, 8,
		},
		"the lower of both": {
			DirectionOptions{Rate: 8e6, Queue: 1 * ms, QueueBytes: 100_000},
			[]arrival{{0, 1 * ms}, {1, 2 * ms}}, 8,
		},
	} {
		d := newDirection(c.o)
		for i := range uint32(10) {
			d.offer(0, frameOf(i, 1000))
		}
		if got := drain(d); !slices.Equal(got, c.want) || d.stats.Overflow != c.over {
			t.Errorf("%s: arrivals are %v and %d frames overflowed, want %v and %d", name, got, d.stats.Overflow, c.want, c.over)
		}
	}

	// The queue of DefaultQueue, at twice the rate: half of the frames pass, at the rate.
	d := newDirection(DirectionOptions{Rate: 8e6})
	list := run(d, 10_000, 1000, 500*time.Microsecond)
	took := list[len(list)-1].at
	if rate := float64(len(list)) * 8000 / took.Seconds(); math.Abs(rate-8e6) > 8e4 {
		t.Errorf("the rate is %.0f bit/s, want 8 Mbit/s", rate)
	}
	if got := took - 5*time.Second; got > DefaultQueue+ms || got < DefaultQueue-2*ms {
		t.Errorf("the last frame waited %v, want about %v", got, DefaultQueue)
	}
}

func TestDirectionLoss(t *testing.T) {
	const n = 100_000
	for name, c := range map[string]struct {
		o           DirectionOptions
		loss, burst float64 // share of lost frames, mean number of lost frames in a row
	}{
		"none":      {DirectionOptions{Seed: 7}, 0, 0},
		"bernoulli": {DirectionOptions{Loss: 0.01, Seed: 7}, 0.01, 1 / 0.99},
		"all":       {DirectionOptions{Loss: 1, Seed: 7}, 1, n},
		"burst":     {DirectionOptions{BurstLoss: BurstLoss{Enter: 0.001, Leave: 0.1, Loss: 1}, Seed: 7}, 0.0099, 10},
		"burst that loses half": {
			DirectionOptions{BurstLoss: BurstLoss{Enter: 0.01, Leave: 0.1, Loss: 0.5}, Seed: 7}, 0.04545, 1 / 0.55},
	} {
		d := newDirection(c.o)
		got := ids(run(d, n, 100, time.Millisecond))
		lost, bursts, last := n-len(got), 0, -1
		for _, id := range append(got, n) {
			if int(id) > last+1 {
				bursts++
			}
			last = int(id)
		}
		if d.stats.Lost+d.stats.BurstLost != int64(lost) {
			t.Errorf("%s: %d frames are missing, and %d+%d counted", name, lost, d.stats.Lost, d.stats.BurstLost)
		}
		if share := float64(lost) / n; math.Abs(share-c.loss) > 0.15*c.loss {
			t.Errorf("%s: the loss is %v, want %v", name, share, c.loss)
		}
		if c.burst > 0 {
			if mean := float64(lost) / float64(bursts); math.Abs(mean-c.burst) > 0.15*c.burst {
				t.Errorf("%s: a burst has %v frames, want %v", name, mean, c.burst)
			}
		}
	}
}

// TestDirectionSequence: which frames are lost depends on the seed only, and not on times,
// sizes or other options.
func TestDirectionSequence(t *testing.T) {
	const n = 2000
	o := DirectionOptions{Loss: 0.02, Seed: 42}
	want := ids(run(newDirection(o), n, 100, time.Millisecond))

	other := o
	other.Delay, other.Rate, other.Duplicate, other.Reorder, other.ReorderBy = time.Second, 1e9, 0.1, 0.1, time.Second
	d := newDirection(other)
	got := ids(run(d, n, 900, 13*time.Microsecond))
	slices.Sort(got)
	if got = slices.Compact(got); !slices.Equal(got, want) {
		t.Error("the same seed lost other frames with other options")
	}
	if d.stats.Duplicated < 150 || d.stats.Duplicated > 250 || d.stats.Reordered < 150 || d.stats.Reordered > 250 {
		t.Errorf("%d frames of %d are duplicated and %d reordered, want a tenth", d.stats.Duplicated, n, d.stats.Reordered)
	}

	o.Seed = 43
	if slices.Equal(ids(run(newDirection(o), n, 100, time.Millisecond)), want) {
		t.Error("another seed lost the same frames")
	}
	d.set(DirectionOptions{Loss: 0.02, Seed: 42})
	if !slices.Equal(ids(run(d, n, 100, time.Millisecond)), want) {
		t.Error("a change of options did not start the sequence again")
	}
}

func TestDirectionReorders(t *testing.T) {
	d := newDirection(DirectionOptions{Delay: 10 * time.Millisecond, Reorder: 0.1, ReorderBy: 5 * time.Millisecond, Seed: 1})
	list := run(d, 1000, 100, time.Millisecond)
	late := 0
	for i, a := range list {
		wait := a.at - time.Duration(a.id)*time.Millisecond
		switch {
		case wait == 10*time.Millisecond:
		case wait == 15*time.Millisecond && i > 0 && (list[i-1].id > a.id || i == len(list)-1):
			late++
		default:
			t.Fatalf("frame %d took %v, after frame %d", a.id, wait, list[max(0, i-1)].id)
		}
	}
	if len(list) != 1000 || late < 60 || late > 140 {
		t.Errorf("%d of %d frames are late, want a tenth of 1000", late, len(list))
	}
}

func TestDirectionDuplicates(t *testing.T) {
	d := newDirection(DirectionOptions{Duplicate: 1, Delay: time.Millisecond})
	d.offer(0, frameOf(1, 100))
	d.offer(0, frameOf(2, 100))
	if got := ids(drain(d)); !slices.Equal(got, []uint32{1, 1, 2, 2}) || d.stats.Duplicated != 2 {
		t.Errorf("frames %v arrived, and %d are counted as duplicates", got, d.stats.Duplicated)
	}
}

func TestDirectionPolicer(t *testing.T) {
	// 8 Mbit/s are a frame of 1,000 bytes per ms; the bucket has room for 10 of them.
	d := newDirection(DirectionOptions{Policer: Policer{Rate: 8e6, Burst: 10_000}})
	passed := func(n int, now time.Duration) int {
		for range n {
			d.offer(now, frameOf(0, 1000))
		}
		return len(drain(d))
	}
	for i, c := range []struct {
		at   time.Duration
		want int
	}{{0, 10}, {time.Millisecond, 1}, {6 * time.Millisecond, 5}, {10 * time.Second, 10}} {
		if got := passed(20, c.at); got != c.want {
			t.Errorf("step %d: %d frames passed at %v, want %d", i, got, c.at, c.want)
		}
	}
	if d.stats.Policed != 80-26 {
		t.Errorf("%d frames are counted, want 54", d.stats.Policed)
	}
}

func TestDirectionMTU(t *testing.T) {
	d := newDirection(DirectionOptions{MTU: 1280})
	d.offer(0, frameOf(1, 1280+ethernetHeader))
	d.offer(0, frameOf(2, 1281+ethernetHeader))
	if got := ids(drain(d)); !slices.Equal(got, []uint32{1}) || d.stats.TooLarge != 1 {
		t.Errorf("frames %v arrived, and %d were too large", got, d.stats.TooLarge)
	}
}

// TestDirectionPathChange: a shorter path lets new frames overtake those under way, and a
// longer one does not reorder.
func TestDirectionPathChange(t *testing.T) {
	d := newDirection(DirectionOptions{Delay: 50 * time.Millisecond})
	d.offer(0, frameOf(1, 100))
	d.set(DirectionOptions{Delay: 10 * time.Millisecond})
	d.offer(5*time.Millisecond, frameOf(2, 100))
	d.set(DirectionOptions{Delay: 100 * time.Millisecond})
	d.offer(6*time.Millisecond, frameOf(3, 100))
	want := []arrival{{2, 15 * time.Millisecond}, {1, 50 * time.Millisecond}, {3, 106 * time.Millisecond}}
	if got := drain(d); !slices.Equal(got, want) {
		t.Errorf("arrivals are %v, want %v", got, want)
	}
}

// TestDirectionIsBounded: a direction holds a bounded number of frames and buffers, and
// counts the others.
func TestDirectionIsBounded(t *testing.T) {
	d := newDirection(DirectionOptions{Delay: time.Hour})
	f := frameOf(0, 100)
	for range 2 {
		for range maxHeld + 10 {
			d.offer(0, f)
		}
		if len(d.held) != maxHeld {
			t.Fatalf("%d frames are held, want %d", len(d.held), maxHeld)
		}
		drain(d)
	}
	if d.stats.Full != 20 || len(d.free) != maxHeld {
		t.Errorf("%d frames are counted and %d buffers exist, want 20 and %d", d.stats.Full, len(d.free), maxHeld)
	}
}

func TestDirectionOptionsAreChecked(t *testing.T) {
	for _, o := range []DirectionOptions{
		{Loss: 1.5}, {Loss: math.NaN()}, {Duplicate: -0.1}, {Reorder: 2}, {BurstLoss: BurstLoss{Leave: 3}},
		{Delay: -1}, {Rate: -1}, {Rate: math.NaN()}, {QueueBytes: -1}, {Policer: Policer{Rate: 1e6, Burst: 100}},
	} {
		if o.check() == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
	ok := DirectionOptions{Loss: 1, Delay: time.Second, Rate: 1e6, Policer: Policer{Rate: 1e6, Burst: 10_000}}
	if err := ok.check(); err != nil {
		t.Error(err)
	}
}
