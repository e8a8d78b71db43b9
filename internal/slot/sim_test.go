package slot

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestSoakSchedules runs the package in seeded schedules of crashes, pauses, deploys,
// partitions, throttling, and late and lost messages, over a simulated table and clocks.
// SLOT_SEED replays one; with SOAK they run for that long.
func TestSoakSchedules(t *testing.T) {
	schedules := uint64(1200)
	if race {
		schedules = 60
	}
	first, length := uint64(1), time.Duration(0)
	if s := os.Getenv("SOAK"); s != "" {
		var err error
		if length, err = time.ParseDuration(s); err != nil || length <= 0 {
			t.Fatalf("SOAK=%s: use a duration such as 10m", s)
		}
		first = uint64(time.Now().UnixNano())
	}
	if s := os.Getenv("SLOT_SEED"); s != "" {
		var err error
		if first, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("SLOT_SEED=%s: use a number", s)
		}
		schedules, length = 1, 0
	}
	var sum tally
	n := uint64(0)
	for start := time.Now(); n < schedules || time.Since(start) < length; n++ {
		w := simulate(t, first+n)
		if len(w.violations) > 0 {
			t.Fatalf("seed %d (SLOT_SEED=%[1]d replays it):\n%s\n%s", first+n, strings.Join(w.violations, "\n"), strings.Join(w.trace[max(0, len(w.trace)-60):], "\n"))
		}
		sum.add(w.tally)
	}
	t.Logf("%d schedules: %+v", n, sum)
	// Schedules without a kind of event would prove nothing about it.
	for name, count := range sum.kinds() {
		if count == 0 && n > 50 {
			t.Errorf("no schedule had any %s", name)
		}
	}
}

// TestReplay expects a seed to give the same schedule again.
func TestReplay(t *testing.T) {
	for seed := uint64(1); seed <= 5; seed++ {
		if a, b := simulate(t, seed).hash(), simulate(t, seed).hash(); a != b {
			t.Errorf("seed %d gave two different schedules", seed)
		}
	}
}

// tally counts events.
type tally struct {
	acquired, takenOver, lost, crashes, pauses, deploys, partitions, throttled, late, unanswered, refused, saved, skewed int
}

func (t tally) kinds() map[string]int {
	return map[string]int{
		"acquisitions": t.acquired, "early takeovers": t.takenOver, "lost leases": t.lost, "crashes": t.crashes, "pauses": t.pauses,
		"deploys": t.deploys, "partitions": t.partitions, "throttled calls": t.throttled, "late requests": t.late,
		"lost answers": t.unanswered, "refused conditions": t.refused, "stored states": t.saved, "skewed clocks": t.skewed,
	}
}

func (t *tally) add(o tally) {
	t.acquired += o.acquired
	t.takenOver += o.takenOver
	t.lost += o.lost
	t.crashes += o.crashes
	t.pauses += o.pauses
	t.deploys += o.deploys
	t.partitions += o.partitions
	t.throttled += o.throttled
	t.late += o.late
	t.unanswered += o.unanswered
	t.refused += o.refused
	t.saved += o.saved
	t.skewed += o.skewed
}

// world is one schedule. Everything in it runs in one synctest bubble; mu serializes the
// goroutines.
type world struct {
	mu    sync.Mutex
	start time.Time
	slots int
	items map[int]Attributes
	procs []*process
	// stored is the content of the last state that was answered as stored, by slot.
	stored     map[int]string
	violations []string
	trace      []string
	faults     bool // messages are lost, late or refused
	tally
}

func (w *world) notef(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf("%10.3f  ", time.Since(w.start).Seconds())+fmt.Sprintf(format, args...))
}

func (w *world) violatef(format string, args ...any) {
	w.notef("VIOLATION "+format, args...)
	w.violations = append(w.violations, fmt.Sprintf(format, args...))
}

func (w *world) hash() uint64 {
	h := fnv.New64()
	for _, line := range w.trace {
		h.Write([]byte(line))
	}
	return h.Sum64()
}

// process is one simulated task. Its fields are covered by world.mu.
type process struct {
	w         *world
	name      string // the ARN of its task
	number    int
	holder    string // the ID of the process that runs in it
	seed      uint64
	randoms   map[string]*rand.Rand // by the kind of use
	skew      time.Duration
	pausedTil time.Time
	// stopped is when the task ended; zero before it. ECS reports that reportLag later.
	stopped   time.Time
	reportLag time.Duration
	cutTil    time.Time // partitioned from the table
	lease     *Lease
	sending   bool
	running   time.Duration // while not the holder according to the table, in a row
	cancel    context.CancelFunc
	draining  bool
	drain     chan struct{}
	ended     chan struct{}
}

// randomFor returns the random numbers for a kind of use: goroutines of a process that wake at
// the same instant must not depend on their order.
func (p *process) randomFor(kind string) *rand.Rand {
	if p.randoms[kind] == nil {
		h := fnv.New64()
		fmt.Fprint(h, kind, p.number)
		p.randoms[kind] = rand.New(rand.NewPCG(p.seed, h.Sum64()))
	}
	return p.randoms[kind]
}

// taskOf returns the task of a holder.
func taskOf(holder string) string {
	name, _, _ := strings.Cut(holder, "/")
	return name
}

// Now implements [Clock].
func (p *process) Now() time.Duration { return time.Since(p.w.start) }

// Wall implements [Clock].
func (p *process) Wall() time.Time {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	return time.Now().Add(p.skew)
}

// farEnd is how long before the end of a lease the frequent checks of the clock begin in the
// simulation, and farStep their period before that: nothing happens in between.
const (
	farEnd  = 20 * time.Second
	farStep = 4 * time.Second
)

// far reports whether the end of the lease is far away.
func (p *process) far() bool {
	p.w.mu.Lock()
	l := p.lease
	p.w.mu.Unlock()
	if l == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end.now-p.Now() > farEnd
}

// Sleep implements [Clock]. A paused process wakes after its pause.
func (p *process) Sleep(ctx context.Context, d time.Duration) bool {
	if d == fenceEvery && p.far() {
		d = farStep
	}
	select {
	case <-time.After(d):
	case <-ctx.Done():
		return false
	}
	if p.awaitResumed() {
		time.Sleep(time.Duration(d.Microseconds() % 997)) // goroutines continue in an order that can be replayed
	}
	return ctx.Err() == nil
}

// awaitResumed waits for the end of a pause, and reports whether there was one.
func (p *process) awaitResumed() (paused bool) {
	for {
		p.w.mu.Lock()
		wait := time.Until(p.pausedTil)
		p.w.mu.Unlock()
		if wait <= 0 {
			return paused
		}
		paused = true
		time.Sleep(wait)
	}
}

var errThrottled = errors.New("throttled")

// exchange carries out a call of the table: a request that takes time, may be lost or late
// after the caller gave up, and an answer that may be lost.
func exchange[T any](ctx context.Context, p *process, kind string, do func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var zero T
	p.w.mu.Lock()
	r := p.randomFor(kind)
	// No two messages arrive at the same instant.
	own := time.Duration(p.number)*time.Microsecond + time.Duration(r.IntN(1000))
	there := time.Duration(1+r.IntN(40))*time.Millisecond + own
	back := time.Duration(1+r.IntN(40))*time.Millisecond + own
	loseRequest, loseAnswer := time.Now().Before(p.cutTil), time.Now().Before(p.cutTil)
	if p.w.faults {
		switch r.IntN(40) {
		case 0:
			p.w.throttled++
			p.w.mu.Unlock()
			p.Sleep(ctx, there)
			return zero, errThrottled
		case 1:
			p.w.late++
			there += time.Duration(r.IntN(900)) * time.Second
		case 2:
			p.w.unanswered++
			loseAnswer = true
		case 3:
			loseRequest = true
		}
	}
	p.w.mu.Unlock()
	answered := make(chan result, 1)
	go func() { // the network does not pause with the process
		time.Sleep(there)
		if loseRequest {
			return
		}
		p.w.mu.Lock()
		value, err := do()
		p.w.mu.Unlock()
		if !loseAnswer {
			time.Sleep(back)
			answered <- result{value, err}
		}
	}()
	select {
	case r := <-answered:
		p.awaitResumed()
		return r.value, r.err
	case <-ctx.Done():
		p.awaitResumed()
		return zero, ctx.Err()
	}
}

// List implements [Table].
func (p *process) List(ctx context.Context) ([]Attributes, error) {
	return exchange(ctx, p, "list", func() (list []Attributes, _ error) {
		for _, n := range slices.Sorted(maps.Keys(p.w.items)) {
			list = append(list, maps.Clone(p.w.items[n]))
		}
		return list, nil
	})
}

// Update implements [Table].
func (p *process) Update(ctx context.Context, n int, c Change) (Attributes, error) {
	return exchange(ctx, p, fmt.Sprint("update", slices.Sorted(maps.Keys(c.Set))), func() (Attributes, error) {
		w := p.w
		before := w.items[n]
		for _, e := range c.Expect {
			value, has := before[e.Name]
			ok := false
			switch e.Op {
			case Absent:
				ok = !has
			case Equal:
				ok = has && value == e.Value
			case Less:
				ok = has && value.(int64) < e.Value.(int64)
			}
			if !ok {
				w.refused++
				return nil, &Changed{maps.Clone(before)}
			}
		}
		after := maps.Clone(before)
		if after == nil {
			after = Attributes{Number: int64(n)}
		}
		maps.Copy(after, c.Set)
		for _, name := range c.Remove {
			delete(after, name)
		}
		w.check(p, n, before, after, c)
		w.items[n] = after
		return maps.Clone(after), nil
	})
}

// check judges a change that was made.
func (w *world) check(p *process, n int, before, after Attributes, c Change) {
	was, _ := before[holder].(string)
	is, _ := after[holder].(string)
	w.notef("slot %d: %s writes %v (holder %q, lease %v)", n, p.name, slices.Sorted(maps.Keys(c.Set)), is, after[lease])
	if was != "" && is != "" && taskOf(is) != taskOf(was) { // a takeover
		i := slices.IndexFunc(w.procs, func(o *process) bool { return o.name == taskOf(was) })
		end := time.UnixMilli(before[until].(int64)).Add(maxSkew) // at the latest, with a clock that is late
		switch early := time.Now().Before(end); {
		case early && w.procs[i].stopped.IsZero():
			w.violatef("slot %d: %s took the slot of %s, which runs, %v before the end of its lease", n, is, was, time.Until(end))
		case early:
			w.takenOver++
		}
	}
	if text, ok := c.Set[state].([]byte); ok {
		writer, _, _ := strings.Cut(string(text), " ")
		if was != writer {
			w.violatef("slot %d: a state of %s was stored while %q held the lease", n, writer, was)
		}
		if old, ok := before[state].([]byte); ok && sequence(string(old)) >= sequence(string(text)) && strings.HasPrefix(string(old), writer+" ") {
			w.violatef("slot %d: state %q replaced the newer %q", n, text, old)
		}
	}
}

// sequence returns the number at the end of a simulated state.
func sequence(text string) int {
	_, s, _ := strings.Cut(text, " ")
	n, _ := strconv.Atoi(s)
	return n
}

// stoppedTasks is [Config].Stopped.
func (p *process) stoppedTasks(ctx context.Context, tasks []string) ([]string, error) {
	return exchange(ctx, p, "stopped", func() (list []string, _ error) {
		for _, o := range p.w.procs {
			if slices.Contains(tasks, o.name) && !o.stopped.IsZero() && time.Since(o.stopped) >= o.reportLag {
				list = append(list, o.name)
			}
		}
		return list, nil
	})
}

// startProcess starts a task. w.mu is not held.
func (w *world) startProcess(seed uint64) *process {
	w.mu.Lock()
	p := &process{
		w: w, number: len(w.procs), name: fmt.Sprintf("p%d", len(w.procs)), seed: seed, randoms: map[string]*rand.Rand{},
		drain: make(chan struct{}), ended: make(chan struct{}),
	}
	p.reportLag = time.Duration(p.randomFor("start").IntN(60)) * time.Second
	if p.randomFor("start").IntN(2) == 0 {
		p.skew = time.Duration(p.randomFor("start").Int64N(int64(2*maxSkew))) - maxSkew
		w.skewed++
	}
	w.procs = append(w.procs, p)
	w.notef("%s starts, skew %v", p.name, p.skew)
	w.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	go p.run(ctx)
	return p
}

// run is the life of a process, as package router has it.
func (p *process) run(ctx context.Context) {
	w := p.w
	defer close(p.ended)
	for generation := 0; ; generation++ {
		w.mu.Lock()
		p.holder = fmt.Sprintf("%s/%d", p.name, generation)
		w.mu.Unlock()
		if !p.runOnce(ctx) {
			break
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if p.stopped.IsZero() {
		p.stopped = time.Now()
		w.notef("%s has ended", p.name)
	}
}

// runOnce is the life of one process in the task. It reports whether the process lost its
// lease: then another one starts in the same container.
func (p *process) runOnce(ctx context.Context) (lost bool) {
	w := p.w
	pool := New(Config{
		Slots: w.slots, Table: p, Holder: p.holder, Task: p.name, Container: "c", Stopped: p.stoppedTasks, Clock: p,
		Jitter: func(d time.Duration) time.Duration { return d + time.Duration(p.number)*time.Millisecond },
		Logger: slog.New(slog.DiscardHandler),
	})
	acquiring, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		select {
		case <-p.drain:
			stop()
		case <-acquiring.Done():
		}
	}()
	l, err := pool.Acquire(acquiring, func(error) {})
	if err != nil {
		return false
	}
	w.mu.Lock()
	w.acquired++
	w.notef("%s acquires slot %d, lease %d", p.name, l.number, l.lease)
	p.lease, p.sending, p.running = l, true, 0
	// The state is the last one that was answered as stored, or a later one.
	if want := w.stored[l.number]; want != "" {
		writer, _, _ := strings.Cut(want, " ")
		if got := string(l.State()); got == "" || strings.HasPrefix(got, writer+" ") && sequence(got) < sequence(want) {
			w.violatef("slot %d: %s read state %q, but %q was stored", l.number, p.name, got, want)
		}
	}
	w.mu.Unlock()
	serving, stopServing := context.WithCancel(ctx)
	var parts sync.WaitGroup
	parts.Go(func() { l.Run(serving) })
	parts.Go(func() { p.save(serving, l) })
	parts.Go(func() { p.send(serving, l) })
	select {
	case <-ctx.Done(): // a crash
	case <-l.Lost():
		lost = true
		w.mu.Lock()
		w.lost++
		w.notef("%s lost slot %d: %v", p.name, l.number, l.Why())
		w.mu.Unlock()
	case <-p.drain:
		p.Sleep(ctx, 6*time.Second) // the hand-over
	}
	w.mu.Lock()
	p.sending = false
	w.mu.Unlock()
	stopServing()
	parts.Wait()
	if ctx.Err() == nil && !lost {
		release, cancel := context.WithTimeout(ctx, 30*time.Second)
		l.Release(release, Stays) //nolint:errcheck // the lease runs out
		cancel()
	}
	return lost
}

// send uses the slot's key every 100 ms of running time.
func (p *process) send(ctx context.Context, l *Lease) {
	const every = 100 * time.Millisecond
	step := every
	for p.Sleep(ctx, step) {
		counted := step == every // a longer step may have been a pause
		if step = every; p.far() {
			step = farStep
		}
		l.mu.Lock() // never within world.mu: the fence reads the clock with it held
		ended := p.Now() >= l.end.now
		l.mu.Unlock()
		p.w.mu.Lock()
		select {
		case <-l.Lost():
			p.sending = false
		default:
		}
		if it, _ := decode(p.w.items[l.number]); p.sending && p.stopped.IsZero() && (ended || it.holder != p.holder || it.lease != l.lease) {
			step = every
			if counted {
				p.running += every
			}
			if p.running > time.Second {
				p.w.violatef("slot %d: %s sends with it (its lease has ended: %v), but %q holds it, lease %d", l.number, p.name, ended, it.holder, it.lease)
				p.sending = false
			}
		}
		over := !p.sending
		p.w.mu.Unlock()
		if over {
			return
		}
	}
}

// save stores a state from time to time.
func (p *process) save(ctx context.Context, l *Lease) {
	for i := 1; ; i++ {
		p.w.mu.Lock()
		wait := time.Duration(1+p.randomFor("save").IntN(200)) * time.Second
		p.w.mu.Unlock()
		if !p.Sleep(ctx, wait) {
			return
		}
		text := fmt.Sprintf("%s %d", p.holder, i)
		err := l.Save(ctx, []byte(text))
		p.w.mu.Lock()
		if err == nil {
			p.w.saved++
			if it, _ := decode(p.w.items[l.number]); it.holder == p.holder {
				p.w.stored[l.number] = text
			}
		}
		p.w.mu.Unlock()
		if errors.Is(err, ErrLost) {
			return
		}
	}
}

// stop asks the process to end, as SIGTERM does.
func (p *process) stop() {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if !p.draining {
		p.draining = true
		close(p.drain)
	}
}

// live returns the processes that have not ended.
func (w *world) live() (list []*process) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.procs {
		if p.stopped.IsZero() {
			list = append(list, p)
		}
	}
	return list
}

// simulate runs one schedule: some hours with faults, then a time without, after which every
// process must have a slot of its own.
func simulate(t *testing.T, seed uint64) *world {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 0))
	desired := 1 + r.IntN(3)
	w := &world{slots: desired + r.IntN(desired+1), items: map[int]Attributes{}, stored: map[int]string{}, faults: r.IntN(4) > 0}
	synctest.Test(t, func(*testing.T) {
		w.start = time.Now()
		for range desired {
			w.startProcess(seed)
		}
		for range 5 + r.IntN(15) {
			time.Sleep(time.Duration(r.IntN(600_000)) * time.Millisecond)
			w.disturb(r, seed, desired)
		}
		w.mu.Lock()
		w.faults = false
		for _, p := range w.procs {
			p.cutTil, p.pausedTil = time.Time{}, time.Time{}
		}
		w.notef("the faults end")
		w.mu.Unlock()
		time.Sleep(2*Term + 20*time.Minute)
		w.settle(desired, seed)
		w.judge()
		for _, p := range w.live() {
			p.cancel()
			<-p.ended
		}
		time.Sleep(time.Hour) // late requests arrive
	})
	return w
}

// settle starts processes in place of those that ended because they had lost their leases.
func (w *world) settle(desired int, seed uint64) {
	for len(w.live()) < desired {
		w.startProcess(seed)
	}
	time.Sleep(3 * time.Minute)
}

// judge expects every process to have a slot, and no two the same.
func (w *world) judge() {
	holders := map[int]string{}
	for _, p := range w.live() {
		w.mu.Lock()
		switch {
		case p.lease == nil || !p.sending:
			w.violatef("%s has no slot although the faults are over", p.name)
		case holders[p.lease.number] != "":
			w.violatef("%s and %s both use slot %d", p.name, holders[p.lease.number], p.lease.number)
		default:
			holders[p.lease.number] = p.name
		}
		w.mu.Unlock()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.items) > w.slots {
		w.violatef("the table has %d slots, more than %d", len(w.items), w.slots)
	}
	for n, a := range w.items {
		if it, _ := decode(a); it.holder != "" && holders[n] != taskOf(it.holder) {
			if i := slices.IndexFunc(w.procs, func(o *process) bool { return o.name == taskOf(it.holder) }); w.procs[i].stopped.IsZero() {
				w.violatef("%s, which uses another slot, still holds slot %d", it.holder, n)
			}
		}
	}
}

// disturb makes one event.
func (w *world) disturb(r *rand.Rand, seed uint64, desired int) {
	live := w.live()
	if len(live) < desired { // ECS replaces tasks that ended
		w.startProcess(seed)
		return
	}
	p := live[r.IntN(len(live))]
	duration := time.Duration(r.Int64N(int64(Term + 10*time.Minute)))
	switch r.IntN(6) {
	case 0: // a crash; ECS starts another task
		w.mu.Lock()
		w.crashes++
		w.notef("%s crashes", p.name)
		p.stopped, p.sending = time.Now(), false
		w.mu.Unlock()
		p.cancel()
		staying := 0
		for _, o := range w.live() {
			if !o.draining {
				staying++
			}
		}
		if staying < desired {
			w.startProcess(seed)
		}
	case 1: // a pause
		w.mu.Lock()
		w.pauses++
		w.notef("%s pauses for %v", p.name, duration)
		p.pausedTil = time.Now().Add(duration)
		w.mu.Unlock()
	case 2, 3: // a deploy: first all new tasks, then the end of the old ones
		w.mu.Lock()
		w.deploys++
		w.notef("a deploy")
		w.mu.Unlock()
		for range desired {
			w.startProcess(seed)
		}
		time.Sleep(time.Duration(r.IntN(60_000)) * time.Millisecond)
		for _, old := range live {
			old.stop()
			time.Sleep(time.Duration(r.IntN(5_000)) * time.Millisecond)
		}
	case 4: // one process is cut off the table
		w.mu.Lock()
		w.partitions++
		w.notef("%s is cut off for %v", p.name, duration)
		p.cutTil = time.Now().Add(duration)
		w.mu.Unlock()
	case 5: // the clock jumps
		w.mu.Lock()
		p.skew = time.Duration(r.Int64N(int64(2*maxSkew))) - maxSkew
		w.notef("%s has skew %v", p.name, p.skew)
		w.mu.Unlock()
	}
}
